"""Many users on few connections to the server: nothing passes from one to the next.

The service is gunicorn as in production, behind a pooler with fewer connections
than its workers have.
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
from tests.factories import full_task
from tests.pooler import SERVER_CONNECTIONS
from tests.process.service import running, variables
from tests.stage import Sql, libpq
from tests.support import TASKS, Caller, assert_problem, client_as, ok, places, wait_until

USERS = 20
ROUNDS = 5
LATE_USERS = 4
"""So many of them have a task that is locked, and run into the deadline."""

WORKERS, POOL_SIZE = 2, 5
assert SERVER_CONNECTIONS < WORKERS * POOL_SIZE

Session = tuple[Any, ...]

# All that a session of PostgreSQL can keep from one transaction to the next.
SESSION = """
SELECT current_user::text, session_user::text,
       coalesce(current_setting('app.user_id', true), ''),
       (SELECT jsonb_object_agg(name, setting) FROM pg_settings),
       (SELECT count(*) FROM pg_prepared_statements),
       (SELECT count(*) FROM pg_listening_channels()),
       (SELECT count(*) FROM pg_cursors WHERE is_holdable),
       (SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'),
       pg_my_temp_schema()
"""

# Of the service, not of a test that looks.
OPEN_TRANSACTIONS = """
SELECT query FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'tasks-api'
  AND state LIKE 'idle in transaction%'
"""


def caller(url: URL) -> Sql:
    """With a name, because PgBouncer leaves that of the caller before to one who has none."""
    return Sql(url.update_query_dict({"application_name": "looking"}))


def session(url: URL) -> Session:
    """What a caller finds on the server's connection that is free now."""
    probe = caller(url)
    [found] = probe(SESSION)
    probe.close()
    return found


def all_sessions(pooled: URL) -> list[Session]:
    """What callers find on every connection of the pool; each is held until all have been seen."""
    probes = [caller(pooled) for _ in range(SERVER_CONNECTIONS)]
    for probe in probes:
        probe("BEGIN")
    found = [probe(SESSION)[0] for probe in probes]
    backends = {probe("SELECT pg_backend_pid()")[0] for probe in probes}
    for probe in probes:
        probe.close()
    assert len(backends) == SERVER_CONNECTIONS
    return found


@contextmanager
def watching(direct: URL, pooled: URL) -> Iterator[list[object]]:
    """Look all the time at what the requests of others leave; yields what differs from nothing."""
    sql, untouched = Sql(direct), session(direct)
    left_behind: list[object] = []
    ended = threading.Event()

    def look() -> None:
        while not ended.is_set():
            left_behind.extend(differences(untouched, session(pooled)))
            left_behind.extend(sql(OPEN_TRANSACTIONS))

    with ThreadPoolExecutor(1) as threads:
        looking = threads.submit(look)
        try:
            yield left_behind
        finally:
            ended.set()
        looking.result()
    for found in all_sessions(pooled):
        left_behind.extend(differences(untouched, found))
    left_behind.extend(sql("SELECT mode FROM pg_locks WHERE locktype = 'advisory'"))
    sql.close()


def differences(untouched: Session, found: Session) -> list[object]:
    """Each thing that is not as on a connection that nobody has used."""
    pairs = [*zip(untouched, found, strict=True)]
    before, after = pairs.pop(3)
    pairs += [((name, before[name]), (name, after.get(name))) for name in before]
    return [found for untouched, found in pairs if untouched != found]


class User:
    """A caller who knows what their tasks are, and checks it after every answer."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self.tasks: dict[str, dict[str, Any]] = {}

    def create(self) -> str:
        task = self.caller.create()
        self.keep(task)
        return str(task["id"])

    def keep(self, task: dict[str, Any]) -> None:
        assert task["user_id"] == self.caller.user_id
        self.tasks[task["id"]] = task

    def check_list(self) -> None:
        found = self.caller.get().json()
        assert found == [self.tasks[task] for task in sorted(self.tasks, reverse=True)]

    def use_every_operation(self, of_another: str) -> None:
        task = self.create()
        assert self.caller.read(task) == self.tasks[task]
        self.check_list()
        self.keep(ok(self.caller.put(task, full_task())))
        self.keep(ok(self.caller.patch(task, {"completed": False})))
        assert places(self.caller.patch(task, {"title": ""})) == {"/title"}
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
def test_nothing_passes_from_one_user_to_the_next(migrated: URL, pooler_url: URL, tmp_path: Path) -> None:
    pooled = pooler_url.set(database=migrated.database)
    environment = variables(
        pooled,
        WEB_CONCURRENCY=str(WORKERS),
        DB_POOL_SIZE=str(POOL_SIZE),
        DB_POOL_TIMEOUT="30",
        DB_STATEMENT_TIMEOUT="2",
    )
    with running(environment, tmp_path / "output") as service, ExitStack() as locks:
        users = [User(client_as(service.client, f"user-{number}-{uuid.uuid4()}")) for number in range(USERS)]
        first = [user.create() for user in users]
        for task in first[:LATE_USERS]:
            locks.enter_context(Locked(migrated, task))

        def use(number: int) -> None:
            for _ in range(ROUNDS):
                users[number].use_every_operation(first[number - 1])
            if number < LATE_USERS:
                users[number].wait_for_the_deadline(first[number])
            users[number].check_list()

        with watching(migrated, pooled) as left_behind, ThreadPoolExecutor(USERS) as threads:
            list(threads.map(use, range(USERS)))
        assert left_behind == []


@pytest.mark.spec("problems.deadline")
def test_a_full_pooler_keeps_nobody_waiting(serve: Serve, migrated: URL, pooler_url: URL) -> None:
    pooled = pooler_url.set(database=migrated.database)
    client = serve(database_url=libpq(pooled), db_pool_size=1, db_connect_timeout=1, db_statement_timeout=1)
    owner = client_as(client, "owner")
    task = owner.create()
    others = [caller(pooled) for _ in range(SERVER_CONNECTIONS)]
    for other in others:
        other("BEGIN")
    response = owner.get()
    assert_problem(response, 503, "unavailable")
    assert int(response.headers["retry-after"]) >= 1
    for other in others:
        other.close()
    wait_until(lambda: owner.get().status_code == 200, "it does not recover")
    assert owner.ids() == [task["id"]]
