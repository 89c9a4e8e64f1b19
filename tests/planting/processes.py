"""Runs Python modules in processes of their own, and leaves none behind when a run ends."""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import IO, Self

ZYGOTE = Path(__file__).with_name("zygote.py")
STOP_SECONDS = 30
"""Between SIGTERM, on which tests and fuzz stop their servers, and SIGKILL."""

_DEFAULTS = {"TEST_DATABASE_URL": "", "PYTHONDONTWRITEBYTECODE": ""}
"""A run starts its own PostgreSQL, and keeps the bytecode of unchanged files for the next run."""

_running: set[int] = set()
_ended = False
_lock = Lock()


@dataclass(frozen=True)
class Done:
    returncode: int
    output: str
    timed_out: bool


class Python:
    """Runs modules in one folder, one after the other."""

    def __init__(self, folder: Path) -> None:
        self._zygote = subprocess.Popen(
            [sys.executable, str(ZYGOTE)],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,  # `select` must see each line that has not been read.
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._zygote.communicate()

    def run(self, module: str, arguments: Sequence[str], seconds: float, **variables: str) -> Done:
        """Run `python -m module`, for at most `seconds`.

        Each run starts its own PostgreSQL, unless `variables` has the URL of one.
        """
        with tempfile.NamedTemporaryFile("r", errors="replace") as output:
            process = self._start(module, arguments, {**os.environ, **_DEFAULTS, **variables}, output.name)
            try:
                timed_out = not self._ends_within(seconds)
                if timed_out:
                    self._stop(process)
            except KeyboardInterrupt:
                self._stop(process)
                raise
            finally:
                _kill_group(process)
                with _lock:
                    _running.discard(process)
            return Done(int(_pipe(self._zygote.stdout).readline()), output.read(), timed_out)

    def _start(self, module: str, arguments: Sequence[str], environment: dict[str, str], output: str) -> int:
        request = {"module": module, "arguments": arguments, "environment": environment, "output": output}
        with _lock:
            if _ended:
                raise KeyboardInterrupt
            _pipe(self._zygote.stdin).write(json.dumps(request).encode() + b"\n")
            process = int(_pipe(self._zygote.stdout).readline())
            _running.add(process)
            return process

    def _stop(self, process: int) -> None:
        _signal(process, signal.SIGTERM)
        self._ends_within(STOP_SECONDS)

    def _ends_within(self, seconds: float) -> bool:
        readable, _, _ = select.select([_pipe(self._zygote.stdout)], [], [], seconds)
        return bool(readable)


def end_all() -> None:
    """Stop what is running, and start nothing more."""
    global _ended  # noqa: PLW0603 - one per process, like the signal that it follows
    with _lock:
        _ended = True
        for process in _running:
            _signal(process, signal.SIGTERM)


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream


def _signal(process: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, number)


def _kill_group(process: int) -> None:
    """Kill what is left of the group, also when its first process has ended."""
    with suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)
