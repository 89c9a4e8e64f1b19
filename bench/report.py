"""Measured figures against their goals, and Markdown tables."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One row of the summary table."""

    goal: str
    measured: str
    met: bool


def at_least(name: str, limit: float, measured: float, unit: str = "", note: str = "") -> Figure:
    return Figure(f"{name}: at least {limit:g}{unit}", f"{measured:.2f}{unit}{note}", measured >= limit)


def at_most(name: str, limit: float, measured: float, unit: str = "", note: str = "") -> Figure:
    return Figure(f"{name}: at most {limit:g}{unit}", f"{measured:.2f}{unit}{note}", measured <= limit)


def exactly(name: str, expected: int, measured: Iterable[int]) -> Figure:
    """Met if every measured count equals `expected`."""
    counts = {int(count) for count in measured}
    return Figure(f"{name}: exactly {expected}", span(counts), counts == {expected})


def span(counts: Iterable[int]) -> str:
    """A single number if all counts are equal, otherwise the range."""
    values = list(counts)
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low}–{high}"


def summary(figures: Sequence[Figure]) -> Iterator[str]:
    rows = [[figure.goal, figure.measured, "yes" if figure.met else "**no**"] for figure in figures]
    yield from table(["goal", "measured", "met"], rows)


def table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(names)} |"
    yield "| --- " * len(names) + "|"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""
