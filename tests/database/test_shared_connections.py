"""Many users on few server connections: no state leaks from one to the next.

The service is gunicorn as in production, behind a PgBouncer with fewer connections
than its workers.
"""

import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL

from tests.conftest import Serve
from tests.database.test_scope import Locked
from tests.environment import Sql, libpq_url
from tests.factories import full_task
from tests.pooler import SERVER_CONNECTIONS
from tests.process.service import running_service, service_environment
from tests.support import TASKS, Caller, assert_problem, client_as, error_locations, ok, wait_until

USERS = 20
ROUNDS = 5
WAITING_USERS = 4
"""The number of users who have a locked task and hit the deadline."""

WORKERS, POOL_SIZE = 2, 5
assert SERVER_CONNECTIONS < WORKERS * POOL_SIZE

SessionState = tuple[Any, ...]

# All state that a PostgreSQL session can keep between transactions, but for the service's own
# prepared statements. PostgreSQL keeps the text of the message that prepared one.
SESSION_STATE = """
SELECT current_user::text, session_user::text,
       coalesce(current_setting('app.user_id', true), ''),
       (SELECT jsonb_object_agg(name, setting) FROM pg_settings),
       (SELECT count(*) FROM pg_prepared_statements
        WHERE statement !~ E';\\nPREPARE [a-z_]+_[0-9a-f]{12} AS ' OR statement ~ 'EXECUTE|app\\.'),
       (SELECT count(*) FROM pg_listening_channels()),
       (SELECT count(*) FROM pg_cursors WHERE is_holdable),
       (SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'),
       pg_my_temp_schema()
"""

# Of the service, not of the tests' own connections.
OPEN_TRANSACTIONS = """
SELECT query FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'tasks-api'
  AND state LIKE 'idle in transaction%'
"""

LEAKED_LOCKS = (
    "SELECT mode FROM pg_locks JOIN pg_stat_activity USING (pid)"
    " WHERE locktype = 'advisory' AND state = 'idle'"
)
"""Locks that outlive their transaction."""


def open_connection(url: URL) -> Sql:
    """Sets application_name, because PgBouncer would keep the previous client's."""
    return Sql(url.update_query_dict({"application_name": "looking"}))


def session_state(url: URL) -> SessionState:
    """The session state of a free server connection."""
    probe = open_connection(url)
    [found] = probe(SESSION_STATE)
    probe.close()
    return found


def all_session_states(pooled: URL) -> list[SessionState]:
    """The session state of every pooled connection; holds each until all are read."""
    probes = [open_connection(pooled) for _ in range(SERVER_CONNECTIONS)]
    for probe in probes:
        probe("BEGIN")
    found = [probe(SESSION_STATE)[0] for probe in probes]
    backends = {probe("SELECT pg_backend_pid()")[0] for probe in probes}
    for probe in probes:
        probe.close()
    assert len(backends) == SERVER_CONNECTIONS
    return found


@contextmanager
def record_leaked_state(direct: URL, pooled: URL) -> Iterator[list[object]]:
    """Continuously record session state that requests leave behind; yields the list of differences."""
    sql, pristine = Sql(direct), session_state(direct)
    leaked: list[object] = []
    ended = threading.Event()

    def poll() -> None:
        while not ended.is_set():
            leaked.extend(differences(pristine, session_state(pooled)))
            leaked.extend(sql(OPEN_TRANSACTIONS))

    with ThreadPoolExecutor(1) as threads:
        polling = threads.submit(poll)
        try:
            yield leaked
        finally:
            ended.set()
        polling.result()
    for found in all_session_states(pooled):
        leaked.extend(differences(pristine, found))
    leaked.extend(sql(LEAKED_LOCKS))
    sql.close()


def differences(pristine: SessionState, found: SessionState) -> list[object]:
    """The differences to the state of an unused connection."""
    pairs = [*zip(pristine, found, strict=True)]
    before, after = pairs.pop(3)
    pairs += [((name, before[name]), (name, after.get(name))) for name in before]
    return [found for pristine, found in pairs if pristine != found]


class User:
    """A caller who tracks their tasks and checks them after every response."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self.tasks: dict[str, dict[str, Any]] = {}

    def create(self) -> str:
        task = self.caller.create()
        self.remember(task)
        return str(task["id"])

    def remember(self, task: dict[str, Any]) -> None:
        assert task["user_id"] == self.caller.user_id
        self.tasks[task["id"]] = task

    def check_list(self) -> None:
        found = self.caller.get().json()
        assert found == [self.tasks[task] for task in sorted(self.tasks, reverse=True)]

    def use_every_operation(self, of_another: str) -> None:
        task = self.create()
        assert self.caller.read(task) == self.tasks[task]
        self.check_list()
        self.remember(ok(self.caller.put(task, full_task())))
        self.remember(ok(self.caller.patch(task, {"completed": False})))
        assert error_locations(self.caller.patch(task, {"title": ""})) == {"/title"}
        assert_problem(self.caller.get(f"{TASKS}/{of_another}"), 404, "not-found")
        assert_problem(self.caller.delete(of_another), 404, "not-found")
        self.check_list()
        other = self.create()
        assert self.caller.delete(other).status_code == 204
        del self.tasks[other]
        assert_problem(self.caller.get(f"{TASKS}/{other}"), 404, "not-found")

    def wait_for_the_deadline(self, locked: str) -> None:
        assert_problem(self.caller.patch(locked, {"title": "late"}), 503, "unavailable")
        assert self.caller.read(locked) == self.tasks[locked]


@pytest.mark.spec("schema.scope.local", "tasks.isolation", "problems.unavailable")
def test_pooled_connections_carry_no_state_between_users(
    migrated: URL, pooler_url: URL, tmp_path: Path
) -> None:
    pooled = pooler_url.set(database=migrated.database)
    environment = service_environment(
        pooled,
        WEB_CONCURRENCY=str(WORKERS),
        DB_POOL_SIZE=str(POOL_SIZE),
        DB_POOL_TIMEOUT="30",
        DB_STATEMENT_TIMEOUT="2",
    )
    with running_service(environment, tmp_path / "output") as service, ExitStack() as locks:
        users = [User(client_as(service.client, f"user-{number}-{uuid.uuid4()}")) for number in range(USERS)]
        first = [user.create() for user in users]
        waiting = [User(client_as(service.client, f"waiting-{uuid.uuid4()}")) for _ in range(WAITING_USERS)]
        locked = [user.create() for user in waiting]
        for task in locked:
            locks.enter_context(Locked(migrated, task))

        def use(number: int) -> None:
            for _ in range(ROUNDS):
                users[number].use_every_operation(first[number - 1])
            if number < WAITING_USERS:
                waiting[number].wait_for_the_deadline(locked[number])
            users[number].check_list()

        with record_leaked_state(migrated, pooled) as leaked, ThreadPoolExecutor(USERS) as threads:
            list(threads.map(use, range(USERS)))
        assert leaked == []


@pytest.mark.spec("problems.deadline")
def test_an_exhausted_pooler_gets_503_within_the_deadline(
    serve: Serve, migrated: URL, pooler_url: URL, caplog: pytest.LogCaptureFixture
) -> None:
    pooled = pooler_url.set(database=migrated.database)
    client = serve(
        database_url=libpq_url(pooled), db_pool_size=1, db_connect_timeout=1, db_statement_timeout=1
    )
    owner = client_as(client, "owner")
    task = owner.create()
    others = [open_connection(pooled) for _ in range(SERVER_CONNECTIONS)]
    for other in others:
        other("BEGIN")
    response = owner.get()
    assert_problem(response, 503, "unavailable")
    assert int(response.headers["retry-after"]) >= 1
    assert "Database connection closed: no answer within 3 s" in caplog.messages
    for other in others:
        other.close()
    wait_until(lambda: owner.get().status_code == 200, "it does not recover")
    assert owner.ids() == [task["id"]]
