"""The results so far, in build/mutants.jsonl, and the report of them, build/mutants.md."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.mutants.equivalent import EQUIVALENT
from tests.mutants.generation import Mutant
from tests.planting.verdicts import Verdict

RESULTS = Path("build/mutants.jsonl")
REPORT = Path("build/mutants.md")

_SCOPE = """
Unit tests: all that run in-process, and of `tests/process/` those that `tests/planting/verdicts.py`
assigns to the module; not the rest of the suite.
Fuzz: of the mutants that it can observe, see `tests/mutants/equivalent.toml`."""


@dataclass(frozen=True)
class Result:
    """`digest` is that of the mutant; `fuzz` is None if the fuzz cannot observe it."""

    identity: str
    digest: str
    fuzz: Verdict | None
    unit: Verdict

    @property
    def module(self) -> str:
        return self.identity.partition("::")[0]

    @property
    def survived(self) -> bool:
        """Neither the fuzz nor the unit tests caught it."""
        return self.unit.caught_by is None and (self.fuzz is None or self.fuzz.caught_by is None)


def read() -> Iterator[Result]:
    for line in RESULTS.read_text().splitlines() if RESULTS.exists() else ():
        each = json.loads(line)
        fuzz = each.pop("fuzz")
        yield Result(fuzz=fuzz and Verdict(**fuzz), unit=Verdict(**each.pop("unit")), **each)


def append(result: Result) -> None:
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a") as file:
        file.write(json.dumps(asdict(result)) + "\n")


def current(mutants: Mapping[str, Mutant]) -> dict[str, Result]:
    """The last result of each mutant, unless its file has changed since."""
    return {
        each.identity: each
        for each in read()
        if each.identity in mutants and mutants[each.identity].digest == each.digest
    }


def report(results: Mapping[str, Result], mutants: Mapping[str, Mutant]) -> str:
    judged = [each for name, each in sorted(results.items()) if name not in EQUIVALENT]
    lines = [
        f"{len(judged)} of {len(mutants)} mutants ran; {len(EQUIVALENT)} others are recorded as equivalent.",
        _SCOPE,
        "",
        "| module | mutants | by fuzz alone | by unit tests alone | by either |",
        "| --- | ---: | ---: | ---: | ---: |",
        *(_row(module, [each for each in judged if each.module == module]) for module in _modules(judged)),
        _row("all", judged),
    ]
    for title, missed in _survivors(judged):
        lines += ["", f"## {title} ({len(missed)})"]
        for each in missed:
            lines += ["", f"`{each.identity}`", "", "```diff", mutants[each.identity].diff, "```"]
    return "\n".join(lines) + "\n"


def _modules(results: Iterable[Result]) -> list[str]:
    return sorted({each.module for each in results})


def _row(name: str, results: list[Result]) -> str:
    fuzzed = [each.fuzz for each in results if each.fuzz]
    cells = [
        name,
        str(len(results)),
        _share([each.caught_by is not None for each in fuzzed]),
        _share([each.unit.caught_by is not None for each in results]),
        _share([not each.survived for each in results]),
    ]
    return f"| {' | '.join(cells)} |"


def _share(caught: list[bool]) -> str:
    return f"{sum(caught)} of {len(caught)} ({100 * sum(caught) // len(caught)} %)" if caught else "–"


def _survivors(results: list[Result]) -> list[tuple[str, list[Result]]]:
    """A mutant is in the first list that fits."""
    unit = [each for each in results if each.unit.caught_by is None and not each.survived]
    fuzz = [each for each in results if each.unit.caught_by and each.fuzz and each.fuzz.caught_by is None]
    return [
        ("Not caught", [each for each in results if each.survived]),
        ("Caught by the fuzz, not by unit tests", unit),
        ("Caught by unit tests, not by the fuzz", fuzz),
    ]
