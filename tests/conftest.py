"""The cast and the stage: a real PostgreSQL, the real migrations, real tokens."""

import os
import re
import signal
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import pytest
from alembic import command
from sqlalchemy import URL, make_url
from starlette.testclient import TestClient

from main import create_app
from settings import Settings
from tests import environment
from tests.environment import Sql, alembic, new_database, require_program
from tests.pooler import pooler
from tests.protocol_proxy import ProtocolProxy, protocol_proxy
from tests.support import Caller, client_as
from tools.postgres import Failure, temporary_server

# A developer's own settings must not reach the tests, nor the tests their database.
for name in [
    *map(str.upper, Settings.model_fields),
    *filter(re.compile("OTEL_|FASTAPI_OTEL_").match, os.environ),
]:
    os.environ.pop(name, None)

# Stopped from outside, the tests stop their servers too.
signal.signal(signal.SIGTERM, signal.default_int_handler)

MakeSettings = Callable[..., Settings]
Serve = Callable[..., TestClient]
Route = Callable[[URL], URL]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI everything is installed, and a test that was skipped has failed."""
    report = yield
    if report.skipped and os.environ.get("CI"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longreprtext}"
    return report


@pytest.fixture(scope="session")
def server_url() -> Iterator[URL]:
    """A superuser's URL of the server on which the tests make their databases."""
    given = os.environ.get("TEST_DATABASE_URL")
    if given:
        yield make_url(given)
        return
    with temporary_server() as url:
        yield url


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


@contextmanager
def exit_on_failure() -> Iterator[None]:
    """Without what all tests need there is nothing to run; a traceback would not say more."""
    try:
        yield
    except Failure as failure:
        pytest.exit(str(failure), returncode=1)


@pytest.fixture(scope="session")
def pooler_url(server_url: URL) -> Iterator[URL]:
    """The superuser's URL of the same server, through PgBouncer in transaction mode."""
    program = require_program("pgbouncer")
    with exit_on_failure(), pooler(program, server_url) as url:
        yield url


@pytest.fixture(scope="session", params=["direct", "pooled"])
def route(request: pytest.FixtureRequest) -> Route:
    """How the service comes to a database. What uses the API uses it in both ways."""
    if request.param == "direct":
        return lambda url: url
    pooler_url: URL = request.getfixturevalue("pooler_url")
    return lambda url: url.set(host=pooler_url.host, port=pooler_url.port)


@pytest.fixture(scope="session")
def service_url(route: Route, database_url: URL) -> URL:
    """What the service under test is given; tests look behind it with `sql`."""
    return route(database_url)


@pytest.fixture(scope="session")
def make_settings(service_url: URL) -> MakeSettings:
    """Settings as the environment would give them, with what a test changes."""

    return partial(environment.make_settings, service_url)


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
def database_proxy(service_url: URL) -> Iterator[ProtocolProxy]:
    with protocol_proxy(service_url) as proxy:
        yield proxy
