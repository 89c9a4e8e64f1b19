"""The Procfile as a platform runs it: release, web, shutdown under load, the next deploy.

honcho runs the Procfile; the service connects through PgBouncer. The files of platforms
that do not read a Procfile contain the same commands.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]
from sqlalchemy import URL

import db
from settings import Settings
from tests.database.test_scope import Locked
from tests.environment import ROOT, Sql, libpq_url
from tests.operations import OPERATIONS
from tests.pooler import SERVER_CONNECTIONS
from tests.process.clone import NOT_CLONED
from tests.process.load import Exchange, load
from tests.process.service import TIMEOUT_SECONDS, Service, service_environment, start
from tests.process.test_gunicorn import wait_until_refused
from tests.support import Caller, client_as, ok, wait_until

NEXT_REVISION = f"{int(db.SCHEMA_REVISION) + 1:04}"
NEXT_MIGRATION = f'''
"""What the next version adds."""

from alembic import op

revision = "{NEXT_REVISION}"
down_revision = "{db.SCHEMA_REVISION}"


def upgrade() -> None:
    op.execute("ALTER TABLE tasks ADD COLUMN archived_at timestamptz")
    op.execute("CREATE INDEX ix_tasks_archived ON tasks (user_id, archived_at)")
'''


def heroku_url(url: URL) -> str:
    """The URL with Heroku's scheme, `postgres://`."""
    return libpq_url(url).replace("postgresql://", "postgres://", 1)


@pytest.fixture
def platform_environment(empty_database: URL, pooler_url: URL) -> dict[str, str]:
    """The environment variables that a platform sets, with an empty database."""
    pooled = pooler_url.set(database=empty_database.database)
    return service_environment(
        pooled,
        PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        PYTHONUNBUFFERED="1",
        DATABASE_URL=heroku_url(pooled),
        DATABASE_URL_UNPOOLED=heroku_url(empty_database),
        WEB_CONCURRENCY="2",
        FORWARDED_ALLOW_IPS="*",
        GUNICORN_CMD_ARGS="--access-logfile -",
    )


@pytest.fixture
def sql(empty_database: URL) -> Iterator[Sql]:
    connection = Sql(empty_database)
    yield connection
    connection.close()


def honcho(process: str) -> list[str]:
    """The honcho command for the Procfile, without a developer's .env."""
    options = ["-e", os.devnull, "-f", str(ROOT / "Procfile")]
    return [sys.executable, "-m", "honcho", *options, "start", process]


def release(platform_environment: dict[str, str], code: Path = ROOT) -> None:
    done = subprocess.run(
        honcho("release"),
        cwd=code,
        env=platform_environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


class Web(Service):
    """The web process, in its own process group."""

    @property
    def group(self) -> int:
        found = re.search(r"web\.1 started \(pid=(\d+)\)", self.output.read_text())
        assert found, self.output.read_text()
        return int(found[1])

    def count_in_log(self, words: str) -> int:
        """How often the log contains these words."""
        return self.output.read_text().count(words)

    def unexpected_lines(self) -> list[str]:
        """Log lines of the web process that are not at level INFO."""
        lines = self.output.read_text().splitlines()
        assert self.count_in_log("Shutting down: Master")
        return [line for line in lines if "web.1  |" in line and '"level": "INFO"' not in line]

    def signal(self, number: signal.Signals) -> None:
        """Signal every process, as platforms do."""
        os.killpg(self.group, number)


@contextmanager
def web(platform_environment: dict[str, str], output: Path, *, ready: bool = True) -> Iterator[Web]:
    process = start(honcho("web"), platform_environment, output)
    service = Web(process, f"http://127.0.0.1:{platform_environment['PORT']}", output)
    try:
        if ready:
            service.wait_for("/health/ready", 200)
        yield service
    finally:
        service.client.close()
        with suppress(ProcessLookupError):
            service.signal(signal.SIGKILL)
        process.terminate()
        process.wait(TIMEOUT_SECONDS)


@pytest.mark.spec("process.stop", "schema.url")
@pytest.mark.parametrize("held", [1, SERVER_CONNECTIONS], ids=["some wait", "all wait"])
def test_shutdown_under_load_loses_no_request(
    platform_environment: dict[str, str], empty_database: URL, sql: Sql, tmp_path: Path, held: int
) -> None:
    """Row locks keep requests in flight; with all connections locked, every client has one in flight."""
    platform_environment["DB_STATEMENT_TIMEOUT"] = str(TIMEOUT_SECONDS)
    release(platform_environment)
    with (
        web(platform_environment, tmp_path / "output") as service,
        ThreadPoolExecutor() as threads,
        ExitStack() as stack,
    ):
        slow = [client_as(service.client, f"slow-{uuid.uuid4()}") for _ in range(held)]
        tasks = [each.create()["id"] for each in slow]
        locks = [stack.enter_context(Locked(empty_database, task)) for task in tasks]
        clients = stack.enter_context(load(int(platform_environment["PORT"])))
        clients.wait_for_responses()
        changes = [
            threads.submit(each.patch, task, {"title": "after"})
            for each, task in zip(slow, tasks, strict=True)
        ]
        for lock in locks:
            lock.wait_for_waiter(sql)
        if held == SERVER_CONNECTIONS:
            clients.wait_until_all_pending()
        stopped_at = time.monotonic()
        service.signal(signal.SIGTERM)
        wait_until_refused(int(platform_environment["PORT"]))
        for lock in locks:
            lock.release()
        clients.join()
        assert [ok(change.result())["title"] for change in changes] == ["after"] * held
        service.process.wait(TIMEOUT_SECONDS)
        assert service.unexpected_lines() == []
    assert_nothing_lost(clients.exchanges, stopped_at)
    created = {each.task for each in clients.exchanges if each.task}
    assert created <= {row[0] for row in sql("SELECT id::text FROM tasks")}


def assert_nothing_lost(exchanges: list[Exchange], stopped_at: float) -> None:
    """Requests sent before SIGTERM must get a response, and all responses are successes."""
    assert [each for each in exchanges if each.status is None and each.written_at < stopped_at] == []
    assert {each.status for each in exchanges} <= {200, 201, None}


@pytest.fixture
def next_version(tmp_path: Path) -> Path:
    """A copy of the code with one more migration."""
    code = tmp_path / "next"
    shutil.copytree(ROOT, code, ignore=lambda _, names: NOT_CLONED & set(names))
    (code / "migrations/versions" / f"{NEXT_REVISION}_next.py").write_text(NEXT_MIGRATION)
    return code


@pytest.mark.spec("schema.revision")
def test_the_next_migration_runs_while_this_version_serves(
    platform_environment: dict[str, str], sql: Sql, next_version: Path, tmp_path: Path
) -> None:
    release(platform_environment)
    with web(platform_environment, tmp_path / "output") as service:
        with load(int(platform_environment["PORT"])) as clients:
            clients.wait_for_responses()
            release(platform_environment, next_version)
            assert sql("SELECT version_num FROM alembic_version") == [(NEXT_REVISION,)]
            clients.wait_for_responses()
        # A statement that waited longer than DB_STATEMENT_TIMEOUT would have got 503.
        assert {each.status for each in clients.exchanges} == {200, 201}
        service.wait_for("/health/ready", 200)
        assert_every_operation_works(client_as(service.client, f"later-{uuid.uuid4()}"))


def assert_every_operation_works(caller: Caller) -> None:
    for operation in OPERATIONS:
        assert operation.send(caller, caller.create()["id"]).status_code == operation.status


@pytest.mark.spec("schema.migrations.owner")
def test_a_release_without_an_unpooled_url_works(platform_environment: dict[str, str], sql: Sql) -> None:
    del platform_environment["DATABASE_URL_UNPOOLED"]
    release(platform_environment)
    assert sql("SELECT version_num FROM alembic_version") == [(db.SCHEMA_REVISION,)]


def test_an_interrupted_run_leaves_no_web_process(
    platform_environment: dict[str, str], tmp_path: Path
) -> None:
    release(platform_environment)
    with web(platform_environment, tmp_path / "output") as service:
        group = service.group
        service.client.close()
        service.process.terminate()
        wait_until_refused(int(platform_environment["PORT"]))
        service.process.wait(TIMEOUT_SECONDS)
        wait_until(lambda: not Path(f"/proc/{group}").exists(), "gunicorn goes on running")


@pytest.mark.spec("process.stop")
def test_a_starting_worker_handles_sigterm(platform_environment: dict[str, str], tmp_path: Path) -> None:
    release(platform_environment)
    with web(platform_environment, tmp_path / "output", ready=False) as service:
        wait_until(lambda: service.count_in_log("Booting worker") == 2, "no worker starts")
        service.signal(signal.SIGTERM)
        service.process.wait(TIMEOUT_SECONDS)
        # A worker that is killed logs nothing.
        assert service.count_in_log("Worker exiting") == 2


PROCFILE = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines())
[RENDER] = yaml.safe_load((ROOT / "render.yaml").read_text())["services"]
RAILWAY = json.loads((ROOT / "railway.json").read_text())["deploy"]
HEROKU = json.loads((ROOT / "app.json").read_text())


@pytest.mark.parametrize(
    ("release", "start"),
    [
        (RENDER["preDeployCommand"], RENDER["startCommand"]),
        (" && ".join(RAILWAY["preDeployCommand"]), RAILWAY["startCommand"]),
    ],
    ids=["render", "railway"],
)
def test_other_platforms_run_the_commands_of_the_procfile(release: str, start: str) -> None:
    assert {"release": release, "web": start} == PROCFILE


@pytest.mark.parametrize("path", [RENDER["healthCheckPath"], RAILWAY["healthcheckPath"]])
def test_platforms_check_liveness(anonymous: Caller, path: str) -> None:
    """Readiness queries the database, which keeps a Neon compute awake."""
    assert ok(anonymous.get(path)) == {"status": "live"}


@pytest.mark.parametrize("seconds", [RENDER["maxShutdownDelaySeconds"], RAILWAY["drainingSeconds"]])
def test_platforms_wait_for_requests_in_flight(seconds: int) -> None:
    """gunicorn allows them `graceful_timeout`, after one second in which it still listens."""
    [graceful] = re.findall(
        r"^graceful_timeout = (\d+)$", (ROOT / "gunicorn.conf.py").read_text(), re.MULTILINE
    )
    assert seconds > int(graceful) + 1


def test_platforms_set_what_the_service_reads() -> None:
    names = {each["key"] for each in RENDER["envVars"]} | set(HEROKU["env"])
    assert names <= {name.upper() for name in Settings.model_fields}
