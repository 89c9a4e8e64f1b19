"""A server process of the chaos tests that can be started, stopped, killed and frozen.

Linux only: reads child processes from /proc.
"""

import os
import signal
import socket
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tests.environment import ROOT
from tests.support import wait_until
from tools.postgres import Identity, server_identity
from tools.serve import end_with_parent

STOP_SECONDS = 15


class Program:
    """One command and its process, which can be restarted.

    Start it from the main thread: PR_SET_PDEATHSIG applies to the thread that
    started the process.
    """

    def __init__(
        self,
        command: Sequence[str],
        output: Path,
        *,
        environment: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
        unprivileged: bool = False,
    ) -> None:
        self.command = list(command)
        self.output = output
        self._environment = environment
        self._cwd = cwd
        self._identity = (
            server_identity() if unprivileged else Identity(user=None, group=None, extra_groups=None)
        )
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def children(self) -> list[int]:
        return children(self.pid)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        assert not self.running
        with self.output.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                cwd=self._cwd,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **self._identity,
                start_new_session=True,
                preexec_fn=end_with_parent,  # noqa: PLW1509
            )

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def stop(self, number: signal.Signals = signal.SIGTERM, seconds: float = STOP_SECONDS) -> int | None:
        """Signal the process and wait for its exit status; None if it had to be killed."""
        if not self.running:
            return None if self._process is None else self._process.returncode
        assert self._process is not None
        self.send(number)
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return None

    def kill(self) -> None:
        """SIGKILL for the process and its children, frozen ones included."""
        if self.running:
            assert self._process is not None
            # The parent first, or it would respawn its children.
            found = children(self.pid)
            signal_all([self.pid, *found], signal.SIGKILL)
            self._process.wait()
            wait_until(lambda: not any(_alive(pid) for pid in found), "killed processes go on running")

    def freeze(self) -> None:
        """SIGSTOP: connections stay open but get no response."""
        signal_all([self.pid, *self.children], signal.SIGSTOP)

    def thaw(self) -> None:
        signal_all([self.pid, *self.children], signal.SIGCONT)


def children(pid: int) -> list[int]:
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def signal_all(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
