"""Runs the contract fuzz with one fault injected, in its own process.

python -m tests.faults.probe NAME [SERVER] — prints one line of JSON, see `Outcome`.
"""

import json
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from sqlalchemy import make_url

from tests.faults.catalogue import FAULTS
from tests.faults.injection import inject


@dataclass(frozen=True)
class Outcome:
    """The result for one fault; `caught_by` is None if it was not caught."""

    fault: str
    caught_by: str | None
    what: str
    calls: int
    seconds: float


def fuzz_with_fault(name: str, server_url: str | None) -> Outcome:
    """Fuzz with the fault on a new server, unless one that was migrated before is given."""
    inject(FAULTS[name])
    # Import the service only now, with the fault injected.
    from alembic import command  # noqa: PLC0415

    from tests.environment import alembic, new_database  # noqa: PLC0415
    from tests.fuzz.engine import fuzz  # noqa: PLC0415
    from tools.postgres import temporary_server  # noqa: PLC0415
    from tools.serve import end_on_signals  # noqa: PLC0415

    end_on_signals()
    with ExitStack() as stack:
        server = make_url(server_url) if server_url else stack.enter_context(temporary_server())
        database = stack.enter_context(new_database(server))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        alembic(database, command.upgrade, "head")
        started = time.monotonic()
        report = fuzz(database, folder, stop_at_first=True)
        seconds = time.monotonic() - started
    # An error in a check, such as an unreadable response, also catches the fault.
    found = [*report.failures, *(f"an error in a check: {error}" for error in report.errors), ""]
    check, _, what = found[0].partition(": ")
    return Outcome(name, check or None, what, report.calls, round(seconds, 1))


if __name__ == "__main__":
    print(json.dumps(asdict(fuzz_with_fault(sys.argv[1], next(iter(sys.argv[2:]), None)))))
