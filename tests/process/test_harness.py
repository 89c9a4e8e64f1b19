"""The test tools themselves: error messages, and no processes or files left behind."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.process.clone import (
    TIMEOUT_SECONDS,
    base_environment,
    failure_message,
    processes_in,
    run,
    wait_for_processes_to_exit,
)
from tests.support import wait_until
from tools.postgres import TEMPORARY, server_identity

HOLD_SERVER = (
    "import sys; from tools.postgres import temporary_server\n"
    "with temporary_server() as url: print(url, flush=True); sys.stdin.read()"
)
FUZZ, FAULTS, MUTANTS = ("tests.fuzz.live",), ("tests.faults",), ("tests.mutants",)
TEST = ("pytest", "-p", "no:cacheprovider", "-n", "2", "tests/tasks/test_fields.py")


def interrupt_from_terminal(process: subprocess.Popen[str]) -> None:
    """Ctrl-C: SIGINT to the whole process group."""
    os.killpg(process.pid, signal.SIGINT)


def terminate(process: subprocess.Popen[str]) -> None:
    process.terminate()


@contextmanager
def start_process(clone: Path, *command: str) -> Iterator[subprocess.Popen[str]]:
    """Start a Python process in the clone, with TMPDIR below it."""
    (clone / "tmp").mkdir(mode=0o755, exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=clone,
        env=base_environment(TMPDIR=str(clone / "tmp")),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("command", "interrupt"),
    [
        (FUZZ, interrupt_from_terminal),
        (FAULTS, interrupt_from_terminal),
        (FAULTS, terminate),
        (MUTANTS, terminate),
        (TEST, terminate),
    ],
)
def test_an_interrupted_run_leaves_no_process(
    clone: Path, command: tuple[str, ...], interrupt: Callable[[subprocess.Popen[str]], None]
) -> None:
    with start_process(clone, "-m", *command) as process:
        # Wait until a server and its clients run.
        wait_until(lambda: len(processes_in(clone)) > 8, "it never began", seconds=120)
        interrupt(process)
        process.communicate(timeout=TIMEOUT_SECONDS)
        wait_for_processes_to_exit(clone)


def test_the_next_run_stops_the_servers_of_a_killed_run(clone: Path) -> None:
    with start_process(clone, "-c", HOLD_SERVER) as process:
        assert process.stdout
        assert process.stdout.readline().startswith("postgresql://")
        process.kill()
        process.wait()
        assert processes_in(clone)
    with start_process(clone, "-c", HOLD_SERVER) as process:
        process.communicate("", timeout=TIMEOUT_SECONDS)
        assert process.returncode == 0
    wait_for_processes_to_exit(clone)
    assert list((clone / "tmp").glob(f"{TEMPORARY}*")) == []


def test_the_pid_in_a_stale_pid_file_is_not_signalled(clone: Path) -> None:
    """After a crash of the machine the PID may belong to an unrelated process."""
    with start_process(clone, "-c", HOLD_SERVER) as process:
        assert process.stdout
        process.stdout.readline()
        [pid_file] = (clone / "tmp").glob(f"{TEMPORARY}*/postgres/data/postmaster.pid")
        server, lines = pid_file.read_text().split("\n", 1)
        process.kill()
    os.kill(int(server), signal.SIGKILL)
    bystander = subprocess.Popen(["cat"], stdin=subprocess.PIPE, **server_identity())
    try:
        pid_file.write_text(f"{bystander.pid}\n{lines}")
        with start_process(clone, "-c", HOLD_SERVER) as process:
            process.communicate("", timeout=TIMEOUT_SECONDS)
            assert process.returncode == 0
        assert bystander.poll() is None
    finally:
        bystander.communicate()


def test_invalid_input_is_reported_in_one_line(clone: Path) -> None:
    for budget in ("soon", "0"):
        assert failure_message(clone, "tests.fuzz.live", BUDGET=budget).startswith(
            "BUDGET is a number of seconds"
        )
    assert failure_message(clone, "tests.faults", ONLY="no such fault").startswith(
        "No fault has this in its name"
    )
    assert failure_message(clone, "tests.mutants", ONLY="no such mutant").startswith("No mutant has this")
    assert failure_message(clone, "tests.mutants", SAMPLE="few").startswith("SAMPLE is a number")


@pytest.mark.parametrize(
    ("ci", "status", "message"),
    [
        ("", 0, "Not run: tests that need no-such-program (1). To run them: apt install no-such-program\n"),
        ("true", 1, "skipped in CI: "),
    ],
)
def test_a_skipped_test_fails_in_ci(clone: Path, ci: str, status: int, message: str) -> None:
    (clone / "tests/test_absent.py").write_text(
        "from tests.environment import require_program\n\n\ndef test_it() -> None:\n"
        "    require_program('no-such-program')\n"
    )
    ended = run(clone, "pytest", "-q", "tests/test_absent.py", CI=ci)
    assert ended.returncode == status
    assert message in ended.stdout


@pytest.mark.parametrize(
    ("ci", "results", "not_run"),
    [("", "1 passed", "tests that need no-such-program (1)"), ("true", "1 passed, 1 error", "")],
)
def test_tests_through_the_pooler_are_one_group_without_it(
    clone: Path, ci: str, results: str, not_run: str
) -> None:
    summary = clone / "tests/not_run.py"
    summary.write_text(summary.read_text().replace('"pgbouncer"', '"no-such-program"'))
    test = "tests/tasks/test_get.py::test_it_answers_with_the_task"
    ended = run(clone, "pytest", "-q", test, CI=ci)
    *_, said, counts = ended.stdout.splitlines()
    assert re.match(rf"{results} in ", counts), ended.stdout
    assert re.findall(r"Not run: (.+)\. To run them: ", said) == [not_run][: bool(not_run)]
