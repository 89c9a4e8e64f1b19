"""Node for the tests: packages from a lock file, and processes that end with the tests."""

import fcntl
import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import islice, takewhile
from pathlib import Path

import pytest

from tests.environment import require_program

NPM_SECONDS = 100
TIMEOUT_SECONDS = 10


def install_packages(folder: Path) -> Path:
    """Install the packages of the folder's lock file, unless they are up to date; returns the folder."""
    _require_version(json.loads((folder / "package.json").read_text())["engines"]["node"])
    fault = _install(require_program("npm"), folder)
    if fault:
        pytest.fail(f"npm ci in {folder} failed: {fault}", pytrace=False)
    return folder


def _require_version(engines: str) -> None:
    """Skip the test unless Node is at least the version of an `engines` such as `>=22.18`."""
    wanted = [int(number) for number in engines.removeprefix(">=").split(".")]
    found = _version(require_program("node", "nodejs"))
    if found < wanted:
        pytest.skip(f"needs Node {engines}, and not {'.'.join(map(str, found))}")


@cache
def _version(program: str) -> list[int]:
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    return [int(number) for number in said.strip().removeprefix("v").split(".")]


@cache
def _install(npm: str, folder: Path) -> str:
    """Install the packages if needed; returns the error, or an empty string. Tried once."""
    wanted = hashlib.sha256((folder / "package-lock.json").read_bytes()).hexdigest()
    done = folder / "node_modules" / ".installed"
    with (folder / "package.json").open() as only_one:
        fcntl.flock(only_one, fcntl.LOCK_EX)
        if done.exists() and done.read_text() == wanted:
            return ""
        fault = _npm_ci(npm, folder)
        if not fault:
            done.write_text(wanted)
        return fault


def _npm_ci(npm: str, folder: Path) -> str:
    options = [
        "--ignore-scripts",
        "--no-audit",
        "--no-fund",
        "--loglevel=error",
        "--fetch-retry-mintimeout=1000",
    ]
    try:
        ended = subprocess.run(
            [npm, "ci", *options],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            timeout=NPM_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"it did not end within {NPM_SECONDS} s"
    if not ended.returncode:
        return ""
    lines = (line.removeprefix("npm error ") for line in ended.stderr.splitlines())
    # The indented lines are npm's stack trace; nothing useful follows them.
    return "; ".join(islice(takewhile(lambda line: not line.startswith(" "), lines), 6))


def run(
    packages: Path, program: str, *arguments: str | Path, folder: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a program of the packages in `packages`."""
    path = install_packages(packages) / "node_modules" / ".bin" / program
    return subprocess.run(
        [require_program("node", "nodejs"), path, *arguments],
        cwd=folder,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=NPM_SECONDS,
        check=False,
    )


@contextmanager
def node_process(*arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """A Node script that exits when its standard input closes, so that it always ends with the tests."""
    process = subprocess.Popen(
        [require_program("node", "nodejs"), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    try:
        process.communicate(timeout=TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
