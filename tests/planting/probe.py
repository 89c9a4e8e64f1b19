"""Runs the contract fuzz on the code in the current directory.

python -m tests.planting.probe [SITUATION …] — prints a line of JSON with a list, see `Finding`.
With situations, only their probes and set-ups run, each on its own database. TEST_DATABASE_URL
may name a server to use; otherwise the run starts its own.
"""

import json
import os
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Finding:
    """`caught_by` is the check or the situation that failed, or None."""

    caught_by: str | None
    what: str = ""


def run(*situations: str) -> list[Finding]:
    # Imported only now, so that an error in the imported code is a finding.
    from alembic import command  # noqa: PLC0415
    from sqlalchemy import make_url  # noqa: PLC0415

    from tests.environment import alembic, new_database  # noqa: PLC0415
    from tests.fuzz.engine import fuzz, run_situation  # noqa: PLC0415
    from tools.postgres import temporary_server  # noqa: PLC0415
    from tools.serve import end_on_signals  # noqa: PLC0415

    end_on_signals()
    with ExitStack() as stack:
        given = os.environ.get("TEST_DATABASE_URL")
        server = make_url(given) if given else stack.enter_context(temporary_server())
        findings = []
        for name in situations or ("",):
            with new_database(server) as database, tempfile.TemporaryDirectory() as folder:
                alembic(database, command.upgrade, "head")
                if name:
                    found = run_situation(name, database, Path(folder))
                else:
                    report = fuzz(database, Path(folder), stop_at_first=True)
                    # An error in a check, such as an unreadable response, is a finding too.
                    found = [*report.failures, *(f"an error in a check: {error}" for error in report.errors)]
            check, _, what = found[0].partition(": ") if found else ("", "", "")
            findings.append(Finding(check or None, what[:500]))
    return findings


def main() -> list[Finding]:
    try:
        return run(*sys.argv[1:])
    except (Exception, SystemExit) as error:
        # A server that cannot run is not the change's doing; compared by name because the
        # import of its module may have failed.
        if type(error).__qualname__ == "Failure":
            raise
        return [Finding("does not start", f"{type(error).__name__}: {error}"[:500])]


if __name__ == "__main__":
    print(json.dumps([asdict(finding) for finding in main()]), file=sys.stdout)
