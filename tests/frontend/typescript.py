"""The client and the page, compiled against the types that `specs/openapi.json` gives."""

import shutil
import subprocess
from pathlib import Path

from tests.node import NPM_SECONDS, installed
from tests.stage import ROOT, require

HERE = Path(__file__).parent
GENERATE = "openapi-typescript {contract} --default-non-nullable=false -o {types}"
"""Without the option, what has a default would have to be given in each new task."""


def sources(folder: Path, *names: str) -> Path:
    """These files and the types of the contract, in a folder of their own."""
    for name in ("tsconfig.json", *names):
        shutil.copy(HERE / name, folder)
    _run(*GENERATE.format(contract=ROOT / "specs/openapi.json", types=folder / "openapi.d.ts").split())
    return folder


def compiled(folder: Path) -> str:
    """Compile it, and give what the compiler complains of."""
    return _run("tsc", "--project", str(folder)).stdout


def _run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = installed(HERE) / "node_modules" / ".bin" / program
    return subprocess.run(
        [require("node", "nodejs"), str(path), *arguments],
        capture_output=True,
        text=True,
        timeout=NPM_SECONDS,
        check=False,
    )
