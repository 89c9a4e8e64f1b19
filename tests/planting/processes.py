"""Child processes in groups of their own, so that none is left when a run ends."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

STOP_SECONDS = 30
"""Between SIGTERM, on which tests and fuzz stop their servers, and SIGKILL."""

_DEFAULTS = {"TEST_DATABASE_URL": "", "PYTHONDONTWRITEBYTECODE": ""}
"""A run starts its own PostgreSQL, and keeps the bytecode of unchanged files for the next run."""

_running: set[subprocess.Popen[str]] = set()
_ended = False
_lock = Lock()


@dataclass(frozen=True)
class Done:
    returncode: int
    output: str
    timed_out: bool


def run_python(arguments: Sequence[str], folder: Path, seconds: float, **variables: str) -> Done:
    """Run Python in `folder`, for at most `seconds`.

    Each run starts its own PostgreSQL, unless `variables` has the URL of one.
    """
    process = _start([sys.executable, *arguments], folder, variables)
    try:
        output, _ = process.communicate(timeout=seconds)
        return Done(process.returncode, output, timed_out=False)
    except subprocess.TimeoutExpired:
        return Done(1, _stop(process), timed_out=True)
    except KeyboardInterrupt:
        _stop(process)
        raise
    finally:
        _kill(process)
        with _lock:
            _running.discard(process)


def _start(command: Sequence[str], folder: Path, variables: Mapping[str, str]) -> subprocess.Popen[str]:
    with _lock:
        if _ended:
            raise KeyboardInterrupt
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **_DEFAULTS, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        _running.add(process)
        return process


def end_all() -> None:
    """Stop what is running, and start nothing more."""
    global _ended  # noqa: PLW0603 - one per process, like the signal that it follows
    with _lock:
        _ended = True
        for process in _running:
            process.terminate()


def _stop(process: subprocess.Popen[str]) -> str:
    process.terminate()
    try:
        return process.communicate(timeout=STOP_SECONDS)[0]
    except subprocess.TimeoutExpired:
        _kill(process)
        return process.communicate()[0]


def _kill(process: subprocess.Popen[str]) -> None:
    """Kill what is left of the group, also when its first process has ended."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
