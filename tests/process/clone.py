"""A clean copy of the project, and commands run in it as a developer would."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.environment import ROOT
from tests.support import wait_until

TIMEOUT_SECONDS = 90
NOT_CLONED = {
    ".venv",
    ".data",
    ".env",
    ".git",
    "build",
    "__pycache__",
    ".hypothesis",
    ".mypy_cache",
    ".ruff_cache",
    ".pytest_cache",
    "node_modules",
}


def copy_project(folder: Path) -> Path:
    """Copy the project without secrets, data or caches."""
    copy = folder / "clone"
    shutil.copytree(ROOT, copy, ignore=lambda _, names: NOT_CLONED & set(names))
    for each in (copy, *copy.parents):
        # As root, the embedded server runs as another user, who needs access.
        if each.stat().st_uid == os.geteuid() and each != Path("/"):
            each.chmod(each.stat().st_mode | 0o011)
    return copy


def base_environment(**changes: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "PYTHONUNBUFFERED": "1", **changes}


def processes_in(folder: Path) -> list[str]:
    """Command lines of processes whose working directory or command line contains the folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            place = entry.with_name("cwd").readlink()
        except OSError:
            continue
        if str(folder) in f"{place} {command}":
            found.append(command)
    return found


def wait_for_processes_to_exit(folder: Path) -> None:
    """Wait until no process of the folder is left."""
    wait_until(lambda: not processes_in(folder), "something was left running")


def failure_message(clone: Path, *command: str, **changes: str) -> str:
    """Run a command that must fail with exactly one line on standard error; returns the line."""
    ended = run(clone, *command, **changes)
    assert ended.returncode == 1, ended
    [line] = ended.stderr.splitlines()
    return line


def run(clone: Path, *command: str, **changes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=clone,
        env=base_environment(**changes),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
