"""Shared fixtures: a real PostgreSQL with the real migrations, the service, and users with real tokens."""

import os
import re
import signal
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain

import pytest
from alembic import command
from sqlalchemy import URL, make_url
from starlette.testclient import TestClient

from main import create_app
from settings import Settings
from tests import environment
from tests.environment import Sql, alembic, new_database, require_program
from tests.not_run import POOLER, ROUTES, not_run
from tests.pooler import pooler
from tests.protocol_proxy import ProtocolProxy, protocol_proxy
from tests.support import Caller, client_as
from tools.postgres import Failure, temporary_server

# Isolate the tests from the developer's own settings and database.
for name in [
    *map(str.upper, Settings.model_fields),
    *filter(re.compile("OTEL_|FASTAPI_OTEL_").match, os.environ),
]:
    os.environ.pop(name, None)

# On SIGTERM run the fixtures' finalizers, which stop the servers.
signal.signal(signal.SIGTERM, signal.default_int_handler)

MakeSettings = Callable[..., Settings]
Serve = Callable[..., TestClient]
Route = Callable[[URL], URL]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a skipped test is a failure: everything is installed there."""
    report = yield
    if report.skipped and os.environ.get("CI"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longreprtext}"
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Generator[None]:
    """End the summary with the tests that did not run."""
    yield
    reports = map(terminalreporter.getreports, ("passed", "failed", "skipped"))
    if line := not_run(chain.from_iterable(reports)):
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def server_url() -> Iterator[URL]:
    """A superuser's URL of the server on which the tests create their databases."""
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
    """A migrated database for one test, which may damage it."""
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
    """End the test run with a one-line message if a required server cannot start."""
    try:
        yield
    except Failure as failure:
        pytest.exit(str(failure), returncode=1)


@pytest.fixture(scope="session")
def pooler_url(server_url: URL) -> Iterator[URL]:
    """The superuser's URL of the same server, through PgBouncer in transaction mode."""
    program = require_program(POOLER)
    with exit_on_failure(), pooler(program, server_url) as url:
        yield url


@pytest.fixture(scope="session", params=ROUTES)
def route(request: pytest.FixtureRequest) -> Route:
    """How the service reaches a database: directly, or through PgBouncer if it is installed."""
    if request.param == "direct":
        return lambda url: url
    pooler_url: URL = request.getfixturevalue("pooler_url")
    return lambda url: url.set(host=pooler_url.host, port=pooler_url.port)


@pytest.fixture(scope="session")
def service_url(route: Route, database_url: URL) -> URL:
    """The database URL of the service under test. `sql` connects to the same database directly."""
    return route(database_url)


@pytest.fixture(scope="session")
def make_settings(service_url: URL) -> MakeSettings:
    """Settings for the service under test, with the test's changes."""
    return partial(environment.make_settings, service_url)


@pytest.fixture(scope="session")
def client(make_settings: MakeSettings) -> Iterator[TestClient]:
    """The application with the default test settings."""
    with TestClient(create_app(make_settings())) as client:
        yield client


@pytest.fixture
def serve(make_settings: MakeSettings) -> Iterator[Serve]:
    """Starts the application with other settings."""
    with ExitStack() as stack:

        def start(**changes: object) -> TestClient:
            return stack.enter_context(TestClient(create_app(make_settings(**changes))))

        yield start


@pytest.fixture
def owner(client: TestClient) -> Caller:
    """The user under test: new in each test, without tasks."""
    return client_as(client, f"owner-{uuid.uuid4()}")


@pytest.fixture
def stranger(client: TestClient) -> Caller:
    """Another authenticated user."""
    return client_as(client, f"stranger-{uuid.uuid4()}")


@pytest.fixture
def anonymous(client: TestClient) -> Caller:
    """A caller without a token."""
    return Caller(client, "", None)


@pytest.fixture
def database_proxy(service_url: URL) -> Iterator[ProtocolProxy]:
    with protocol_proxy(service_url) as proxy:
        yield proxy


@pytest.fixture
def watched(serve: Serve, database_proxy: ProtocolProxy) -> Caller:
    """A user of a service whose line to the database is watched; it has one connection."""
    client = serve(database_url=environment.libpq_url(database_proxy.url), db_pool_size=1)
    return client_as(client, f"watched-{uuid.uuid4()}")
