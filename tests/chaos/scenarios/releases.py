"""Two consecutive releases under load, each with a migration."""

import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import db
from tests.chaos.checker import Outcome
from tests.chaos.environment import own_server
from tests.chaos.runner import Run, Scenario
from tests.chaos.servers import platform_environment, release
from tests.environment import ROOT
from tests.process.clone import NOT_CLONED

MIGRATION = '''
"""Release {revision} adds a column and an index."""

from alembic import op

revision = "{revision}"
down_revision = "{before}"


def upgrade() -> None:
    op.execute("ALTER TABLE tasks ADD COLUMN added_in_{revision} timestamptz")
    op.execute("CREATE INDEX ix_tasks_{revision} ON tasks (user_id, added_in_{revision})")
'''


def next_code(code: Path, folder: Path, revision: int) -> Path:
    """A copy of the code with one more migration."""
    shutil.copytree(code, folder, ignore=lambda _, names: NOT_CLONED & set(names))
    text = MIGRATION.format(revision=f"{revision:04}", before=f"{revision - 1:04}")
    (folder / "migrations/versions" / f"{revision:04}_next.py").write_text(text)
    return folder


@contextmanager
def two_releases(run: Run) -> Iterator[None]:
    """Migrate, start the new version, switch the router to it, stop the old version."""
    code, web = ROOT, run.web
    newest = int(db.SCHEMA_REVISION)
    for number in (1, 2):
        code = next_code(code, run.environment.folder("release"), newest + number)
        release(platform_environment(run.route.service, run.postgres.url, {}), code)
        new = run.stack.enter_context(run.environment.web(run.route, {}, code))
        run.load.target.port = new.port
        run.sleep(0.5)
        web.stop(signal.SIGTERM)
        web = new
    yield
    failures = sum(each.outcome is not Outcome.ACKNOWLEDGED for each in run.load.history)
    run.expect(not failures, f"{failures} requests failed during the releases")


SCENARIOS = [Scenario("two releases in a row", two_releases, own_server)]
