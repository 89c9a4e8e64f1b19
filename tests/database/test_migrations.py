"""Migrations: the only thing that creates schema."""

import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import URL, create_engine
from sqlalchemy.exc import OperationalError
from sqlmodel import SQLModel

import db
from settings import DatabaseSettings
from tests.conftest import Route, Serve
from tests.environment import ROOT, Sql, alembic, environment_variables, libpq_url, new_database
from tests.support import client_as, wait_until

MIGRATION_LOCK = 7_455_308_412
"""ADVISORY_LOCK of migrations/env.py, which cannot be imported outside Alembic."""


@pytest.fixture
def plain_owner(server_url: URL) -> Iterator[URL]:
    """A database whose owner has CREATEROLE but is no superuser, as on cloud platforms."""
    admin = Sql(server_url)
    name = f"owner_{uuid.uuid4().hex}"
    admin(f"CREATE ROLE {name} LOGIN CREATEROLE NOSUPERUSER PASSWORD 'secret'")
    with new_database(server_url) as url:
        admin(f'ALTER DATABASE "{url.database}" OWNER TO {name}')
        roles = "tasks_api, tasks_maintenance, tasks_eraser, tasks_watcher"
        # Roles belong to the server, and another test database created these. Like their
        # creator, the owner may grant them but has not granted them to itself yet.
        if admin("SELECT current_setting('server_version_num')::int >= 160000") == [(True,)]:
            admin(f"GRANT {roles} TO {name} WITH ADMIN TRUE, SET FALSE, INHERIT FALSE")
        else:
            admin(f"GRANT {roles} TO {name} WITH ADMIN OPTION")
        yield url.set(username=name, password="secret")
    admin(f"DROP OWNED BY {name}")
    admin(f"DROP ROLE {name}")
    admin.close()


def revision(url: URL) -> list[str]:
    sql = Sql(url)
    found = [row[0] for row in sql("SELECT version_num FROM alembic_version")]
    sql.close()
    return found


def tables(url: URL) -> set[str]:
    sql = Sql(url)
    found = {row[0] for row in sql("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}
    sql.close()
    return found


@pytest.mark.spec("schema.migrations.agree")
def test_upgrade_downgrade_and_upgrade_again(empty_database: URL) -> None:
    alembic(empty_database, command.upgrade, "head")
    assert tables(empty_database) == {"alembic_version", *SQLModel.metadata.tables}
    alembic(empty_database, command.check)
    alembic(empty_database, command.downgrade, "base")
    assert tables(empty_database) == {"alembic_version"}
    alembic(empty_database, command.upgrade, "head")
    alembic(empty_database, command.check)


@pytest.mark.spec("schema.migrations.agree")
def test_each_downgrade_restores_the_schema_of_the_revision_before(empty_database: URL) -> None:
    revisions = sorted(path.name[:4] for path in (ROOT / "migrations" / "versions").glob("[0-9]*.py"))
    before = []
    for each in revisions:
        before.append(columns(empty_database))
        alembic(empty_database, command.upgrade, each)
    for expected in reversed(before):
        alembic(empty_database, command.downgrade, "-1")
        assert columns(empty_database) == expected


def columns(url: URL) -> set[tuple[str, ...]]:
    """The columns of all tables, the indexes, and the functions."""
    sql = Sql(url)
    found = sql(
        "SELECT table_name, column_name, data_type, is_nullable FROM information_schema.columns"
        " WHERE table_schema = 'public' AND table_name <> 'alembic_version'"
        " UNION ALL SELECT tablename, indexdef, '', '' FROM pg_indexes"
        " WHERE schemaname = 'public' AND tablename <> 'alembic_version'"
        " UNION ALL SELECT proname, prosrc, '', '' FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
        " UNION ALL SELECT tablename, policyname, qual, '' FROM pg_policies"
    )
    sql.close()
    return {*found}


def definitions(url: URL) -> set[str]:
    sql = Sql(url)
    constraints = sql(
        "SELECT conname || pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'tasks'::regclass"
    )
    indexes = sql("SELECT indexdef FROM pg_indexes WHERE tablename = 'tasks'")
    sql.close()
    return {row[0] for row in constraints + indexes}


@pytest.mark.spec("schema.migrations.agree")
def test_models_and_migrations_create_the_same_constraints(empty_database: URL, database_url: URL) -> None:
    """Alembic compares neither check constraints nor index predicates."""
    engine = create_engine(empty_database.set(drivername="postgresql+psycopg2"))
    SQLModel.metadata.create_all(engine)
    engine.dispose()
    assert definitions(empty_database) == definitions(database_url)


@pytest.mark.spec("schema.migrations.owner", "schema.role.created")
def test_a_database_owner_without_superuser_can_migrate_and_serve(
    plain_owner: URL, serve: Serve, route: Route
) -> None:
    alembic(plain_owner, command.upgrade, "head")
    client = serve(database_url=libpq_url(route(plain_owner)))
    assert client.get("/health/ready").status_code == 200
    caller = client_as(client, "somebody")
    task = caller.create()["id"]
    assert caller.ids() == [task]
    alembic(plain_owner, command.downgrade, "base")
    alembic(plain_owner, command.upgrade, "head")


@contextmanager
def running_migrations(url: URL, count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Start this many migration runs at the same time."""
    with environment_variables(DATABASE_URL=libpq_url(url)):
        runs = [
            subprocess.Popen([sys.executable, "-m", "alembic", "upgrade", "head"], cwd=ROOT)
            for _ in range(count)
        ]
    try:
        yield runs
    finally:
        for run in runs:
            run.kill()
            run.wait()


WAITING_FOR_THE_TABLE = (
    "SELECT count(*) FROM pg_locks WHERE locktype = 'transactionid' AND NOT granted"
    " AND transactionid = %s::text::xid"
)


TRYING_TO_LOCK = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    " AND query LIKE 'SELECT pg_try_advisory_xact_lock%%' AND state = 'idle in transaction'"
)


@pytest.mark.spec("schema.migrations.once")
def test_concurrent_migrations_are_serialized(empty_database: URL) -> None:
    """An uncommitted table of the same name holds one run in the middle of the first migration."""
    sql, barrier, table = (Sql(empty_database) for _ in range(3))

    def waiting() -> list[int]:
        return [sql(TRYING_TO_LOCK)[0][0], sql(WAITING_FOR_THE_TABLE, transaction)[0][0]]

    barrier("SELECT pg_advisory_lock(%s)", MIGRATION_LOCK)
    table("BEGIN")
    table("CREATE TABLE tasks ()")
    [[transaction]] = table("SELECT pg_current_xact_id()::xid::text")
    with running_migrations(empty_database, 2) as runs:
        wait_until(lambda: waiting() == [2, 0], "the runs do not try to take the lock")
        barrier.close()
        # The run that got the lock is idle on the connection that holds it.
        wait_until(lambda: waiting() == [2, 1], "no run creates the table")
        assert sorted(run.poll() is None for run in runs) == [True, True]
        table("ROLLBACK")
        assert [run.wait(timeout=60) for run in runs] == [0, 0]
    for connection in (sql, table):
        connection.close()
    assert revision(empty_database) == [db.SCHEMA_REVISION]


@pytest.mark.spec("schema.migrations.once")
def test_it_waits_a_minute_for_another_run(empty_database: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Sql(empty_database)
    other("SELECT pg_advisory_lock(%s)", MIGRATION_LOCK)
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with pytest.raises(SystemExit, match="Another migration has been running for 60 seconds"):
        alembic(empty_database, command.upgrade, "head")
    assert 60 < now < 61
    other.close()
    assert tables(empty_database) == set()


REQUIRE_LOCK_TIMEOUT = """
CREATE FUNCTION require_lock_timeout() RETURNS event_trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF current_setting('lock_timeout') <> '5s' AND current_query() !~ '^(CREATE|DROP) .*CONCURRENTLY' THEN
            RAISE EXCEPTION 'no lock timeout in: %', current_query();
        END IF;
    END
$$;
CREATE EVENT TRIGGER require_lock_timeout ON ddl_command_start EXECUTE FUNCTION require_lock_timeout();
"""


@pytest.mark.spec("schema.migrations.lock-timeout")
def test_every_command_that_blocks_others_has_a_lock_timeout(empty_database: URL) -> None:
    """The server itself refuses a command without one."""
    sql = Sql(empty_database)
    sql(REQUIRE_LOCK_TIMEOUT)
    sql.close()
    alembic(empty_database, command.upgrade, "head")
    alembic(empty_database, command.downgrade, "base")


@pytest.mark.spec("schema.migrations.lock-timeout")
def test_a_migration_does_not_wait_for_a_busy_table(empty_database: URL) -> None:
    alembic(empty_database, command.upgrade, "head")
    busy = Sql(empty_database)
    # A migration that waited longer would succeed.
    busy("SET idle_in_transaction_session_timeout = '20s'")
    busy("BEGIN")
    busy("SELECT FROM tasks")
    started_at = time.monotonic()
    with pytest.raises(OperationalError, match="lock timeout"):
        alembic(empty_database, command.downgrade, "base")
    assert time.monotonic() - started_at >= 5
    busy("ROLLBACK")
    busy.close()
    assert "tasks" in tables(empty_database)
    assert revision(empty_database) > ["0001"]


@pytest.mark.spec("schema.revision")
def test_revisions_are_numbered_and_the_service_knows_the_newest() -> None:
    script = ScriptDirectory.from_config(Config(ROOT / "alembic.ini"))
    revisions = [each.revision for each in script.walk_revisions()][::-1]
    assert revisions == [f"{number:04}" for number in range(1, len(revisions) + 1)]
    assert script.get_current_head() == db.SCHEMA_REVISION


@pytest.mark.spec("schema.migrations.direct")
def test_migrations_use_the_unpooled_url(empty_database: URL) -> None:
    pooled = "postgres://app:secret@127.0.0.1:1/tasks"
    with environment_variables(DATABASE_URL=pooled, DATABASE_URL_UNPOOLED=libpq_url(empty_database)):
        command.upgrade(Config(ROOT / "alembic.ini"), "head")
    assert revision(empty_database) == [db.SCHEMA_REVISION]


@pytest.mark.spec("schema.migrations.direct")
@pytest.mark.parametrize(
    ("pooled", "unpooled", "host"),
    [
        ("ep-cool-1-pooler.eu-central-1.aws.neon.tech", None, "ep-cool-1.eu-central-1.aws.neon.tech"),
        ("ep-cool-1.eu-central-1.aws.neon.tech", None, "ep-cool-1.eu-central-1.aws.neon.tech"),
        ("localhost-pooler", None, "localhost-pooler"),
        ("ep-cool-1-pooler.neon.tech", "direct.example.com", "direct.example.com"),
    ],
)
def test_the_unpooled_url_is_derived_from_a_neon_pooler_url(
    pooled: str, unpooled: str | None, host: str
) -> None:
    settings = DatabaseSettings(
        _env_file=None,
        database_url=f"postgres://app:secret@{pooled}/tasks?sslmode=require",
        database_url_unpooled=unpooled and f"postgres://app:secret@{unpooled}/tasks",
    )
    assert settings.direct_url.host == host
    assert settings.direct_url.password == "secret"
    assert settings.direct_url.query["sslmode"] == "require"
