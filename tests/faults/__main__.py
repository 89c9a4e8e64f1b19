"""`make faults`: runs every fault against the contract fuzz alone and the unit tests alone.

Prints a table, also to build/faults.md. ONLY=… selects faults by name. Exits with 1
unless both catch every fault.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.faults.catalogue import FAULTS
from tests.faults.probe import Outcome
from tools.serve import end_on_signals

REPORT = Path("build/faults.md")
TIMEOUT_SECONDS = 600
UNIT_TESTS = ("tests/tasks", "tests/http", "tests/auth", "tests/database")
FIRST_TESTS = {
    "auth": "tests/auth",
    "database": "tests/database",
    "db.py": "tests/database",
    "migrations": "tests/database",
    "observability": "tests/http",
    "problems.py": "tests/http",
    "web": "tests/http",
}
"""The tests that run first for a changed file or package."""

_FAILED = re.compile(r"^(?:FAILED|ERROR) ([^\s\[]+)", re.MULTILINE)
_COUNT = re.compile(r"(\d+) (?:passed|failed|error)")

_running: set[subprocess.Popen[str]] = set()


def main() -> int:
    end_on_signals()
    wanted = os.environ.get("ONLY", "")
    names = [name for name in FAULTS if wanted in name]
    if not names:
        sys.exit(f"No fault has this in its name: {wanted}")
    try:
        outcomes = _run_all(names)
    except KeyboardInterrupt:
        return 130
    lines = ["| fault | caught by check | calls | s | caught by test | tests | s |", "| --- " * 7 + "|"]
    lines += [_row(*pair) for pair in outcomes]
    missed = [each for pair in outcomes for each in pair if each.caught_by is None]
    lines.append(f"\n{len(outcomes)} faults; {len(missed)} not caught")
    print("\n".join(lines))
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text("\n".join(lines) + "\n")
    return 1 if missed else 0


def _run_all(names: Sequence[str]) -> list[tuple[Outcome, Outcome]]:
    threads = ThreadPoolExecutor(os.cpu_count())
    try:
        fuzzed = threads.map(by_contract_fuzz, names)
        tested = threads.map(by_unit_tests, names)
        return [
            _print_progress(number, pair) for number, pair in enumerate(zip(fuzzed, tested, strict=True), 1)
        ]
    finally:
        # End the started processes, and their servers, before returning.
        threads.shutdown(wait=False, cancel_futures=True)
        for process in [*_running]:
            process.terminate()
        threads.shutdown()


def by_contract_fuzz(name: str, *server: str) -> Outcome:
    if FAULTS[name].not_fuzzable:
        return Outcome(name, f"not asked: {FAULTS[name].not_fuzzable}", "", 0, 0.0)
    done = _run([sys.executable, "-m", "tests.faults.probe", name, *server], {})
    if done.returncode:
        return _inconclusive(name, done)
    return Outcome(**json.loads(done.stdout.splitlines()[-1]))


def by_unit_tests(name: str) -> Outcome:
    """The first failing test, starting with those closest to the fault."""
    started = time.monotonic()
    first = FIRST_TESTS.get(FAULTS[name].edits[0].path.partition("/")[0], UNIT_TESTS[0])
    folders = sorted(UNIT_TESTS, key=lambda folder: folder != first)
    options = ["-x", "-q", "--no-header", "--tb=line", "-p", "tests.faults.plugin", "-k", "not pooled"]
    done = _run([sys.executable, "-m", "pytest", *options, *folders], {"FAULT": name})
    failed = _FAILED.search(done.stdout)
    if not failed and done.returncode:
        return _inconclusive(name, done)
    count = sum(int(number) for number in _COUNT.findall(done.stdout.splitlines()[-1]))
    return Outcome(name, failed and failed[1], "", count, round(time.monotonic() - started, 1))


def _inconclusive(name: str, done: subprocess.CompletedProcess[str]) -> Outcome:
    """A run that failed without a result counts as not caught."""
    print(f"{name}: {done.stdout[-2000:]}{done.stderr[-2000:]}", file=sys.stderr)
    return Outcome(name, None, "", 0, 0.0)


def _run(command: Sequence[str], variables: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command in a process that stops its servers when terminated.

    Each has its own servers, so that faults in migrations and roles are isolated.
    """
    process = subprocess.Popen(
        command,
        env={**os.environ, **variables, "TEST_DATABASE_URL": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    _running.add(process)
    try:
        output, errors = process.communicate(timeout=TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        process.terminate()
        output, errors = process.communicate()
    finally:
        _running.discard(process)
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def _print_progress(number: int, pair: tuple[Outcome, Outcome]) -> tuple[Outcome, Outcome]:
    fuzzed, tested = pair
    print(
        f"{number:3} {fuzzed.fault}: {fuzzed.caught_by or 'NOT CAUGHT'}, {tested.caught_by or 'NOT CAUGHT'}",
        file=sys.stderr,
    )
    return pair


def _row(fuzzed: Outcome, tested: Outcome) -> str:
    cells = [fuzzed.fault]
    for each in (fuzzed, tested):
        cells += [each.caught_by or "**not caught**", str(each.calls), str(each.seconds)]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
