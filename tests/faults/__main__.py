"""`make faults`: runs every fault against the contract fuzz alone and the unit tests alone.

ONLY=… selects faults by name, theme or module. Prints a table, also to build/faults.md. Exits with
1 unless both catch every fault that they can observe.
"""

import os
import sys
import time
from collections.abc import Container, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Self

from tests.faults.entries import FAULTS, Fault
from tests.planting import processes, verdicts
from tests.planting.anchors import NotAnchored
from tests.planting.verdicts import TIMEOUT, Inconclusive, Verdict
from tests.planting.workspace import Workspace
from tools.postgres import temporary_server
from tools.serve import end_on_signals

REPORT = Path("build/faults.md")


@dataclass(frozen=True)
class Outcome:
    """`fuzz` is None if the fuzz cannot observe the fault. `error` is why there is no verdict."""

    fault: Fault
    fuzz: Verdict | None = None
    unit: Verdict | None = None
    error: str = ""

    @property
    def missed(self) -> bool:
        observing = [self.unit] if self.fault.not_fuzzable else [self.fuzz, self.unit]
        return not all(each and each.caught_by for each in observing)

    def without(self, broken: Container[str | None]) -> Self:
        """Without the verdicts of tests and situations that fail in any case."""
        if self.unit and self.unit.caught_by in broken:
            return replace(self, unit=None, error=f"{self.unit.caught_by} also fails without the fault")
        if self.fuzz and self.fuzz.caught_by in broken:
            return replace(self, fuzz=None, error=f"{self.fuzz.caught_by} also fails without the fault")
        return self


def main() -> int:
    end_on_signals()
    wanted = os.environ.get("ONLY", "")
    chosen = [each for each in FAULTS.values() if any(wanted in text for text in _texts(each))]
    if not chosen:
        sys.exit(f"No fault has this in its name: {wanted}")
    if problem := _not_plantable(chosen):
        sys.exit(problem)
    started = time.monotonic()
    try:
        outcomes = run_all(chosen)
    except KeyboardInterrupt:
        return 130
    text = report(outcomes, time.monotonic() - started)
    for each in filter(lambda outcome: outcome.error, outcomes):
        print(f"{each.fault.name}: {each.error}", file=sys.stderr)
    print(text)
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(text)
    return int(any(each.missed for each in outcomes))


def _not_plantable(chosen: Sequence[Fault]) -> str:
    """The first fault whose place does not exist; found before anything runs."""
    for fault in chosen:
        try:
            _ = fault.changed
        except NotAnchored as error:
            return f"The fault {fault.name!r} cannot be planted: {error}"
    return ""


def _texts(fault: Fault) -> list[str]:
    return [fault.name, fault.theme, *fault.modules]


def run_all(chosen: Sequence[Fault]) -> list[Outcome]:
    """One workspace and one PostgreSQL server for each worker; in the order of the catalogue."""
    count = min(os.cpu_count() or 1, len(chosen))
    with ExitStack() as stack:
        free: SimpleQueue[Workspace] = SimpleQueue()
        for _ in range(count):
            server = stack.enter_context(temporary_server())
            free.put(stack.enter_context(Workspace(server)))
        threads = ThreadPoolExecutor(count)
        # End the processes of an interrupted run before their workspaces and servers.
        stack.callback(threads.shutdown, cancel_futures=True)
        stack.callback(processes.end_all)
        outcomes = {}
        waiting = [threads.submit(_judge, each, free) for each in chosen]
        for number, done in enumerate(as_completed(waiting), 1):
            outcome = done.result()
            outcomes[outcome.fault.name] = outcome
            print(f"{number} of {len(chosen)}: {' | '.join(_cells(outcome))}", file=sys.stderr)
        broken = _failing_without_a_fault([*outcomes.values()], free, threads, count)
    return [outcomes[each.name].without(broken) for each in chosen]


def _judge(fault: Fault, free: SimpleQueue[Workspace]) -> Outcome:
    workspace = free.get()
    try:
        return judge(fault, workspace)
    except Inconclusive as failure:
        return Outcome(fault, error=str(failure))
    finally:
        free.put(workspace)


def _failing_without_a_fault(
    outcomes: Sequence[Outcome], free: SimpleQueue[Workspace], threads: Executor, count: int
) -> set[str]:
    """The tests and situations that caught a fault, but also fail without one; each runs once."""
    tests = sorted({each.unit.caught_by or "" for each in outcomes if each.unit and each.unit.is_test})
    situations = sorted({each.fault.situation for each in outcomes if each.fault.situation})

    def run_part(start: int) -> set[str]:
        return verdicts.failing(tests[start::count], situations[start::count], free.get())

    return set().union(*threads.map(run_part, range(count)))


def judge(fault: Fault, workspace: Workspace) -> Outcome:
    fuzz = (
        None if fault.not_fuzzable else verdicts.by_contract_fuzz(fault.changed, workspace, fault.situation)
    )
    unit = verdicts.by_unit_tests(fault.changed, workspace, fault.first_tests, confirm=False)
    return Outcome(fault, fuzz, unit)


def report(outcomes: Sequence[Outcome], seconds: float) -> str:
    lines = [
        "| theme | fault | caught by check | s | caught by test | s |",
        "| --- | --- | --- | ---: | --- | ---: |",
        *(f"| {' | '.join(_cells(each))} |" for each in outcomes),
        "",
        summary(outcomes, seconds),
    ]
    return "\n".join(lines) + "\n"


def _cells(outcome: Outcome) -> list[str]:
    cells = [outcome.fault.theme, outcome.fault.name]
    for verdict, reason in ((outcome.fuzz, outcome.fault.not_fuzzable), (outcome.unit, "")):
        if verdict:
            cells += [verdict.caught_by or "**not caught**", str(verdict.seconds)]
        else:
            cells += [f"not asked: {reason}" if reason else "**no result**", ""]
    return cells


def summary(outcomes: Sequence[Outcome], seconds: float) -> str:
    fuzzed = [each.fuzz for each in outcomes if not each.fault.not_fuzzable]
    units = [each.unit for each in outcomes]
    caught_by = [each.caught_by if each else None for each in [*fuzzed, *units]]
    return (
        f"{len(outcomes)} faults in {seconds / 60:.0f} minutes: {_caught(fuzzed)} of {len(fuzzed)} that the "
        f"fuzz can observe caught by it, {_caught(units)} of {len(units)} by tests; "
        f"{caught_by.count(TIMEOUT)} by a timeout."
    )


def _caught(found: Sequence[Verdict | None]) -> int:
    return sum(1 for each in found if each and each.caught_by)


if __name__ == "__main__":
    sys.exit(main())
