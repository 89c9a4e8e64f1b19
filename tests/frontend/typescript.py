"""The client and the page, compiled against the types that `specs/openapi.json` gives."""

import shutil
from pathlib import Path

from tests.environment import ROOT
from tests.node import run

HERE = Path(__file__).parent
GENERATE = "openapi-typescript {contract} --default-non-nullable=false -o {types}"
"""Without the option, what has a default would have to be given in each new task."""


def sources(folder: Path, *names: str) -> Path:
    """These files and the types of the contract, in a folder of their own."""
    for name in ("tsconfig.json", *names):
        shutil.copy(HERE / name, folder)
    command = GENERATE.format(contract=ROOT / "specs/openapi.json", types=folder / "openapi.d.ts")
    run(HERE, *command.split())
    return folder


def compiled(folder: Path) -> str:
    """Compile it, and give what the compiler complains of."""
    return run(HERE, "tsc", "--project", folder).stdout
