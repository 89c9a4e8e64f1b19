"""`make fuzz ONLY=…`: the probes and set-ups with this in their name, in this process."""

import logging
import sys
import tempfile
from pathlib import Path

from alembic import command
from sqlalchemy import URL

from tests.environment import alembic, new_database
from tests.fuzz.engine import run_situation
from tests.fuzz.lab import SET_UPS
from tests.fuzz.prober import PROBES
from tools import postgres


def main(wanted: str) -> int:
    """Print what fails of each. Returns 1 if anything does, else 0."""
    names = [name for name in (*PROBES, *SET_UPS) if wanted in name]
    if not names:
        sys.exit(f"No probe and no set-up has this in its name: {wanted}")
    failed = False
    with postgres.temporary_server() as server:
        for name in names:
            failures = _failures(name, server)
            print("\n".join([f"{name}: {len(failures)} failures", *failures]))
            failed = failed or bool(failures)
    return int(failed)


def _failures(name: str, server: URL) -> list[str]:
    with new_database(server) as database, tempfile.TemporaryDirectory() as folder:
        logging.disable(logging.INFO)
        alembic(database, command.upgrade, "head")
        logging.disable(logging.NOTSET)
        return run_situation(name, database, Path(folder))
