"""The TypeScript client and the test page, compiled against the types of `specs/openapi.json`."""

import shutil
from pathlib import Path

from tests.environment import ROOT
from tests.node import run

HERE = Path(__file__).parent
CLIENT = ROOT / "clients/typescript/tasks.ts"
GENERATE = "openapi-typescript {contract} --default-non-nullable=false -o {types}"
"""Without the option, every field that has a default would be required in a new task."""


def sources(folder: Path, *names: str) -> Path:
    """The client, the contract's types and these files, in a folder of their own."""
    for path in (CLIENT, *(HERE / name for name in ("tsconfig.json", *names))):
        shutil.copy(path, folder)
    command = GENERATE.format(contract=ROOT / "specs/openapi.json", types=folder / "openapi.d.ts")
    run(HERE, *command.split())
    return folder


def compiled(folder: Path) -> str:
    """Compile it, and give what the compiler complains of."""
    return run(HERE, "tsc", "--project", folder).stdout
