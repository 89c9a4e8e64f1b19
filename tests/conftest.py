"""The cast and the stage: a real PostgreSQL, the real migrations, real tokens."""

import os
import shutil
import signal
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import URL, make_url
from starlette.testclient import TestClient

from main import create_app
from settings import Settings
from tests.support import SECRET, Caller, client_as
from tests.wire import Wire, wire
from tools.postgres import temporary_server

ROOT = Path(__file__).parent.parent

# A developer's own settings must not reach the tests, nor the tests their database.
for name in Settings.model_fields:
    os.environ.pop(name.upper(), None)

# Stopped from outside, the tests stop their servers too.
signal.signal(signal.SIGTERM, signal.default_int_handler)

NO_LIMIT = "1000000/second"

MakeSettings = Callable[..., Settings]
Serve = Callable[..., TestClient]


def libpq(url: URL) -> str:
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


def require(program: str) -> str:
    """The path of a program that a test runs for real; without it the test is skipped, but not in CI."""
    path = shutil.which(program)
    if path is None and os.environ.get("CI"):
        pytest.fail(f"{program} is not installed")
    if path is None:
        pytest.skip(f"needs {program}: install it, for example with apt install {program}")
    return path


@contextmanager
def environment(**values: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name, value)
        yield


def alembic(url: URL, action: Callable[..., object], *arguments: str) -> None:
    """Run Alembic as the release phase does, with its own settings and logging."""
    with environment(DATABASE_URL=libpq(url)):
        action(Config(ROOT / "alembic.ini"), *arguments)


class Sql:
    """A superuser's connection, to look behind the API and to prepare what it cannot."""

    def __init__(self, url: URL) -> None:
        self._connection = psycopg2.connect(libpq(url))
        self._connection.autocommit = True

    def __call__(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        with self._connection.cursor() as cursor:
            cursor.execute(statement, parameters or None)
            return cursor.fetchall() if cursor.description else []

    def close(self) -> None:
        self._connection.close()


@pytest.fixture(scope="session")
def server_url() -> Iterator[URL]:
    """A superuser's URL of the server on which the tests make their databases."""
    given = os.environ.get("TEST_DATABASE_URL")
    if given:
        yield make_url(given)
        return
    with temporary_server() as url:
        yield url


@contextmanager
def new_database(server_url: URL) -> Iterator[URL]:
    """An empty database that is gone afterwards."""
    name = f"tasks_test_{uuid.uuid4().hex}"
    admin = Sql(server_url)
    admin(f'CREATE DATABASE "{name}"')
    try:
        yield server_url.set(database=name)
    finally:
        admin(f'DROP DATABASE "{name}" WITH (FORCE)')
        admin.close()


@pytest.fixture
def empty_database(server_url: URL) -> Iterator[URL]:
    with new_database(server_url) as url:
        yield url


@pytest.fixture
def migrated(empty_database: URL) -> URL:
    """A database of the test's own, to damage."""
    alembic(empty_database, command.upgrade, "head")
    return empty_database


@pytest.fixture(scope="session")
def database_url(server_url: URL) -> Iterator[URL]:
    with new_database(server_url) as url:
        alembic(url, command.upgrade, "head")
        yield url


@pytest.fixture(scope="session")
def sql(database_url: URL) -> Iterator[Sql]:
    connection = Sql(database_url)
    yield connection
    connection.close()


@pytest.fixture(scope="session")
def make_settings(database_url: URL) -> MakeSettings:
    """Settings as the environment would give them, with what a test changes."""

    def make(**changes: Any) -> Settings:
        values: dict[str, Any] = {
            "database_url": libpq(database_url),
            "better_auth_secret": SECRET,
            "rate_limit_requests": NO_LIMIT,
            "rate_limit_auth_failures": NO_LIMIT,
            "cors_origins": "https://app.example.com",
            **changes,
        }
        return Settings(
            _env_file=None, **{name: value for name, value in values.items() if value is not None}
        )

    return make


@pytest.fixture(scope="session")
def client(make_settings: MakeSettings) -> Iterator[TestClient]:
    """The application as it is, for all tests that need no other settings."""
    with TestClient(create_app(make_settings())) as client:
        yield client


@pytest.fixture
def serve(make_settings: MakeSettings) -> Iterator[Serve]:
    """The application with settings of the test's own."""
    with ExitStack() as stack:

        def start(**changes: object) -> TestClient:
            return stack.enter_context(TestClient(create_app(make_settings(**changes))))

        yield start


@pytest.fixture
def owner(client: TestClient) -> Caller:
    """The user whose tasks a test is about. New in each test, and so without tasks."""
    return client_as(client, f"owner-{uuid.uuid4()}")


@pytest.fixture
def stranger(client: TestClient) -> Caller:
    """Another user who is signed in."""
    return client_as(client, f"stranger-{uuid.uuid4()}")


@pytest.fixture
def anonymous(client: TestClient) -> Caller:
    """Nobody: no token."""
    return Caller(client, "", None)


@pytest.fixture
def database_wire(database_url: URL) -> Iterator[Wire]:
    with wire(database_url) as seen:
        yield seen
