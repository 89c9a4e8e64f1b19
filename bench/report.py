"""Figures against their targets, and tables in Markdown."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One line of the first table: what was wanted, what came out."""

    target: str
    measured: str
    met: bool


def at_least(what: str, limit: float, measured: float, unit: str = "", note: str = "") -> Figure:
    return Figure(f"{what}: at least {limit:g}{unit}", f"{measured:.2f}{unit}{note}", measured >= limit)


def at_most(what: str, limit: float, measured: float, unit: str = "", note: str = "") -> Figure:
    return Figure(f"{what}: at most {limit:g}{unit}", f"{measured:.2f}{unit}{note}", measured <= limit)


def exactly(what: str, wanted: int, seen: Iterable[int]) -> Figure:
    """Every one of the counts must be as wanted."""
    counts = {int(count) for count in seen}
    return Figure(f"{what}: {wanted} each", span(counts), counts == {wanted})


def span(counts: Iterable[int]) -> str:
    """One number when all agree, else the range."""
    seen = list(counts)
    low, high = min(seen), max(seen)
    return str(low) if low == high else f"{low}–{high}"


def verdict(figures: Sequence[Figure]) -> Iterator[str]:
    rows = [[figure.target, figure.measured, "yes" if figure.met else "**no**"] for figure in figures]
    yield from table(["target", "measured", "met"], rows)


def table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(names)} |"
    yield "| --- " * len(names) + "|"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""
