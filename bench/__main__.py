"""`make bench` and `make bench-quick`: the service beside its baselines, in one report.

    python -m bench                  all of it, also written to bench/RESULTS.md
    python -m bench quick            throughput in short, under two minutes
    python -m bench SECTION …        only throughput, resources, distance or growth

Starts all it needs but wrk and PgBouncer (apt install wrk pgbouncer).
"""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from bench import distance, growth, machine, resources, throughput
from bench.client import WrongAnswer
from bench.report import Figure, verdict
from tools import postgres, serve

RESULTS = Path("bench/RESULTS.md")
UNMET = Path("bench/UNMET.md")
"""Why some targets are not met, and the profile that shows it; to be kept true by hand."""

Section = Callable[[list[Figure]], Iterator[str]]
"""Yields its lines of Markdown, and adds to the figures what it measured."""

SECTIONS: dict[str, Section] = {
    "throughput": throughput.section,
    "resources": resources.section,
    "distance": distance.section,
    "growth": growth.section,
}
CHOICES: dict[str, Section] = {"quick": partial(throughput.section, plan=throughput.QUICK), **SECTIONS}


def main(names: list[str]) -> int:
    serve.end_on_signals()
    unknown = [name for name in names if name not in CHOICES]
    if unknown:
        sys.exit(f"There is no {' or '.join(unknown)}; there are: {', '.join(CHOICES)}; or nothing, for all")
    try:
        sections = [CHOICES[name] for name in names or SECTIONS]
        report = "\n".join(_report(sections, remarks="" if names else UNMET.read_text()))
    except (postgres.Failure, WrongAnswer) as failure:
        sys.exit(str(failure))
    except KeyboardInterrupt:
        return 130
    print(report)
    if not names:
        RESULTS.write_text(f"{report}\n")
    return 0


def _report(sections: list[Section], remarks: str) -> Iterator[str]:
    figures: list[Figure] = []
    lines = [line for section in sections for line in section(figures)]
    yield "# Results"
    yield ""
    yield "Written by `make bench`; `bench/` says how each figure is taken."
    yield ""
    yield from machine.lines()
    yield from verdict(figures)
    yield remarks
    yield from lines


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
