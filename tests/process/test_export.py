"""Exports through gunicorn: of any length with the same memory, and without a connection between pages."""

import json
import socket
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx2
import pytest
from alembic import command
from sqlalchemy import URL

from tests.environment import Sql, alembic, new_database
from tests.process.service import Service, running_service, service_environment
from tests.process.test_connections import request_head, resident_megabytes, worker_pid
from tests.support import ACCOUNT, Caller, assert_problem, client_as, wait_until
from tests.tasks.test_account import add_tasks

EXPORT = f"{ACCOUNT}/export"
COUNT = 100_000


@pytest.fixture(scope="module")
def url(server_url: URL) -> Iterator[URL]:
    """Of a database of these tests, which make its table disappear."""
    with new_database(server_url) as url:
        alembic(url, command.upgrade, "head")
        yield url


@pytest.fixture(scope="module")
def own_sql(url: URL) -> Iterator[Sql]:
    connection = Sql(url)
    yield connection
    connection.close()


@pytest.fixture(scope="module")
def service(url: URL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One process with one connection to the database.

    DB_POOL_TIMEOUT is shorter than the time-out of a response that nobody reads (`http.unread-answer`).
    """
    environment = service_environment(url, DB_POOL_SIZE="1", DB_POOL_TIMEOUT="10")
    with running_service(environment, tmp_path_factory.mktemp("service") / "output") as service:
        yield service


@pytest.fixture(scope="module")
def hoarder(service: Service, own_sql: Sql) -> Caller:
    """A user with 100,000 tasks."""
    caller = client_as(service.client, f"hoarder-{uuid.uuid4()}")
    add_tasks(own_sql, caller.user_id, COUNT, deleted=COUNT // 2)
    own_sql("VACUUM ANALYZE tasks")
    return caller


@contextmanager
def unread_export(service: Service, caller: Caller) -> Iterator[None]:
    """An export of which the client reads only the first bytes."""
    wait_for_a_place(caller)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", service.client.base_url.port or 0))
        connection.sendall(request_head("GET", EXPORT, user=caller.user_id).encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 200 ")
        yield


def wait_for_a_place(caller: Caller) -> None:
    """An export whose client has gone can go on for some seconds."""
    wait_until(lambda: caller.request("HEAD", EXPORT).status_code == 200, "the exports do not end")


@pytest.mark.spec("account.export.pages")
def test_an_export_that_nobody_reads_holds_no_connection_to_the_database(
    service: Service, hoarder: Caller, own_sql: Sql
) -> None:
    def quiet() -> bool:
        """Whether no message of the service has arrived for a while."""
        return own_sql(
            "SELECT clock_timestamp() - max(state_change) > interval '0.3 s' FROM pg_stat_activity"
            " WHERE application_name = 'tasks-api'"
        ) == [(True,)]

    with unread_export(service, hoarder):
        wait_until(quiet, "the export continues although its client does not read")
        for _ in range(5):
            assert hoarder.get().status_code == 200


@contextmanager
def tasks_renamed(sql: Sql) -> Iterator[None]:
    sql("ALTER TABLE tasks RENAME TO moved")
    try:
        yield
    finally:
        sql("ALTER TABLE moved RENAME TO tasks")


@pytest.mark.spec("account.export.pages")
def test_an_export_of_100000_tasks_needs_the_memory_of_a_page(service: Service, hoarder: Caller) -> None:
    worker = worker_pid(service.process.pid)
    headers = {"Authorization": f"Bearer {hoarder.token}"}
    ids, peak = set(), 0.0
    with service.client.stream("GET", EXPORT, headers=headers) as response:
        lines = response.iter_lines()
        baseline = resident_megabytes(worker)
        for number, line in enumerate(lines):
            ids.add(json.loads(line)["id"])
            if number % 5_000 == 0:
                peak = max(peak, resident_megabytes(worker) - baseline)
    assert len(ids) == number + 1 == COUNT
    assert peak < 8


@pytest.mark.spec("account.export.pages", "http.unread-answer")
def test_exports_that_nobody_reads_use_little_memory(service: Service, own_sql: Sql) -> None:
    """Of the longest possible tasks, as many as a user can have in progress."""
    caller = client_as(service.client, f"unread-{uuid.uuid4()}")
    add_tasks(own_sql, caller.user_id, 400)
    own_sql(
        "UPDATE tasks SET description = repeat(U&'\\+01F600', 5000), seq = -seq WHERE user_id = %s",
        caller.user_id,
    )
    worker = worker_pid(service.process.pid)
    with unread_export(service, caller):
        baseline = resident_megabytes(worker)
    with ExitStack() as stack:
        for _ in range(19):
            stack.enter_context(unread_export(service, caller))
        assert resident_megabytes(worker) - baseline < 20


@pytest.mark.spec("limits.lists")
def test_a_user_has_20_exports_in_progress(service: Service, hoarder: Caller) -> None:
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(unread_export(service, hoarder))
        assert_problem(hoarder.get(EXPORT), 429, "too-many-requests")


@pytest.mark.spec("account.export.incomplete")
def test_a_client_notices_that_an_export_is_incomplete(
    service: Service, hoarder: Caller, own_sql: Sql
) -> None:
    headers = {"Authorization": f"Bearer {hoarder.token}"}
    wait_for_a_place(hoarder)
    with service.client.stream("GET", EXPORT, headers=headers) as response:
        assert response.status_code == 200
        chunks = response.iter_bytes()
        next(chunks)
        with tasks_renamed(own_sql), pytest.raises(httpx2.RemoteProtocolError):
            for _ in chunks:
                pass
    assert hoarder.get().status_code == 200


@pytest.mark.spec("account.export.incomplete")
def test_an_export_that_cannot_begin_is_a_problem(service: Service, hoarder: Caller, own_sql: Sql) -> None:
    with tasks_renamed(own_sql):
        assert_problem(hoarder.get(EXPORT), 503, "unavailable")
