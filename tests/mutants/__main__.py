"""`make mutants`: runs each mutant against the contract fuzz alone and the unit tests alone.

SAMPLE=…   how many mutants, spread evenly over the modules, or "all"; 40 unless set
SEED=…     of the sample; 0 unless set
ONLY=…     only the mutants with this in their ID
FRESH=1    also those with a result in build/mutants.jsonl

Writes build/mutants.md from all results so far. Exits with 1 if a mutant was caught by neither.
"""

import os
import random
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from itertools import zip_longest
from queue import SimpleQueue

from tests.mutants import results
from tests.mutants.equivalent import EQUIVALENT, not_observable
from tests.mutants.generation import Mutant, all_mutants
from tests.mutants.results import Result
from tests.planting import processes, verdicts
from tests.planting.workspace import Workspace
from tools.serve import end_on_signals

DEFAULT_SAMPLE = "40"


def main() -> int:
    end_on_signals()
    mutants = all_mutants()
    before = {} if os.environ.get("FRESH") else results.current(mutants)
    chosen = [each for each in sample(mutants.values()) if each.identity not in {*before, *EQUIVALENT}]
    try:
        if chosen:
            run_all(chosen)
    except KeyboardInterrupt:
        return 130
    finally:
        text = results.report(results.current(mutants), mutants)
        results.REPORT.parent.mkdir(exist_ok=True)
        results.REPORT.write_text(text)
    print(text)
    found = results.current(mutants)
    return int(any(each.identity in found and found[each.identity].survived for each in chosen))


def sample(mutants: Iterable[Mutant]) -> list[Mutant]:
    """A random choice, in turn from each module."""
    size, only = os.environ.get("SAMPLE") or DEFAULT_SAMPLE, os.environ.get("ONLY", "")
    if size != "all" and not size.isdecimal():
        sys.exit("SAMPLE is a number, or all")
    modules: defaultdict[str, list[Mutant]] = defaultdict(list)
    for mutant in mutants:
        if only in mutant.identity:
            modules[mutant.path].append(mutant)
    if not modules:
        sys.exit(f"No mutant has this in its ID: {only}")
    choice = random.Random(os.environ.get("SEED") or "0")
    for each in modules.values():
        choice.shuffle(each)
    in_turn = [mutant for turn in zip_longest(*modules.values()) for mutant in turn if mutant]
    return in_turn if size == "all" else in_turn[: int(size)]


def run_all(chosen: Sequence[Mutant]) -> None:
    """One workspace for each worker; every result is stored at once."""
    count = min(os.cpu_count() or 1, len(chosen))
    with ExitStack() as stack:
        free: SimpleQueue[Workspace] = SimpleQueue()
        for workspace in [stack.enter_context(Workspace()) for _ in range(count)]:
            free.put(workspace)
        if any(not not_observable(each.identity) for each in chosen):
            _require_passing_fuzz(workspace)
        started = time.monotonic()
        for number, result in enumerate(_results(chosen, free, count), 1):
            results.append(result)
            _print_progress(number, len(chosen), time.monotonic() - started, result)


def _require_passing_fuzz(workspace: Workspace) -> None:
    """The fuzz catches a mutant only if it passes without one."""
    finding = verdicts.fuzz(workspace)
    if finding.caught_by:
        sys.exit(f"The fuzz fails without a mutant: {finding.caught_by}: {finding.what}")


def _results(chosen: Sequence[Mutant], free: SimpleQueue[Workspace], count: int) -> Iterator[Result]:
    threads = ThreadPoolExecutor(count)
    try:
        for done in as_completed([threads.submit(_judge, each, free) for each in chosen]):
            if result := done.result():
                yield result
    finally:
        # End the started processes, and their servers, before the workspaces are deleted.
        processes.end_all()
        threads.shutdown(cancel_futures=True)


def _judge(mutant: Mutant, free: SimpleQueue[Workspace]) -> Result | None:
    workspace = free.get()
    changed = {mutant.path: mutant.text}
    try:
        fuzz = None if not_observable(mutant.identity) else verdicts.by_contract_fuzz(changed, workspace)
        unit = verdicts.by_unit_tests(changed, workspace)
        return Result(mutant.identity, mutant.digest, fuzz, unit)
    except verdicts.Inconclusive as failure:
        print(f"{mutant.identity}: {failure}", file=sys.stderr)
        return None
    finally:
        free.put(workspace)


def _print_progress(number: int, total: int, elapsed: float, result: Result) -> None:
    left = elapsed / number * (total - number)
    fuzz = "not asked" if result.fuzz is None else result.fuzz.caught_by or "NOT CAUGHT"
    unit = result.unit.caught_by or "NOT CAUGHT"
    print(
        f"{number} of {total}, {elapsed:.0f} s, {left:.0f} s left: {result.identity}: {fuzz}, {unit}",
        file=sys.stderr,
    )


if __name__ == "__main__":
    sys.exit(main())
