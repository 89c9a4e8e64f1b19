"""The one message of a request: what it sends, and what it leaves behind."""

import asyncio
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from operator import itemgetter

import pytest
from sqlalchemy import URL, text
from sqlalchemy.exc import InternalError, ProgrammingError
from sqlalchemy.orm.exc import DetachedInstanceError
from sqlmodel import Session

from database.session import UserSession
from db import Database, PoolExhausted
from models import Task
from tests.conftest import MakeSettings, Serve
from tests.environment import Sql, clock
from tests.operations import ON_ONE_TASK, Operation, each
from tests.protocol_proxy import ProtocolProxy
from tests.support import TASKS, Caller, assert_problem, assert_unauthorized, client_as, ok, wait_until


def only_message(watched: Caller, database_proxy: ProtocolProxy, operation: Operation) -> str:
    """What a successful operation sends to the database, which must be one message, after its first."""
    task, other = (watched.create()["id"] for _ in range(2))
    operation.send(watched, other)
    database_proxy.clear()
    assert operation.send(watched, task).is_success
    [message] = database_proxy.messages
    return message


@pytest.mark.spec("tasks.round-trip", "schema.scope")
@each()
def test_an_operation_sends_one_message(
    watched: Caller, database_proxy: ProtocolProxy, operation: Operation
) -> None:
    message = only_message(watched, database_proxy, operation)
    assert message.startswith("QSELECT set_config('role', 'tasks_api', true)")
    assert f"set_config('app.user_id', '{watched.user_id}', true)" in message
    assert "set_config('statement_timeout', '5000', true)" in message
    assert "set_config('TimeZone', 'UTC', true)" in message


@pytest.mark.spec("schema.write-lock", "tasks.round-trip")
@each()
def test_writes_take_the_write_lock_in_their_message_and_reads_take_none(
    watched: Caller, database_proxy: ProtocolProxy, operation: Operation
) -> None:
    message = only_message(watched, database_proxy, operation)
    lock = f"SELECT pg_advisory_xact_lock(hashtextextended('{watched.user_id}', 0))"
    assert [lock in each for each in message.split(";\n")] == (
        [False, True, False] if operation.writes else [False, False]
    )


@pytest.mark.spec("tasks.round-trip")
@each(ON_ONE_TASK)
def test_a_missing_task_takes_no_second_message(
    watched: Caller, database_proxy: ProtocolProxy, operation: Operation
) -> None:
    operation.send(watched, watched.create()["id"])
    database_proxy.clear()
    assert_problem(operation.send(watched, str(uuid.uuid4())), 404, "not-found")
    assert len(database_proxy.messages) == 1


@pytest.mark.spec("auth.no-database")
@each()
def test_an_unauthorized_request_sends_no_message(
    watched: Caller, database_proxy: ProtocolProxy, operation: Operation
) -> None:
    task = watched.create()["id"]
    database_proxy.clear()
    anonymous = Caller(watched.client, "", None)
    forged = Caller(watched.client, "", (watched.token or "")[:-4] + "AAAA")
    assert_unauthorized(operation.send(anonymous, task), None)
    assert_unauthorized(operation.send(forged, task), "The signature is invalid")
    assert database_proxy.messages == []


@pytest.mark.spec("schema.scope.local")
def test_the_user_scope_ends_with_its_transaction(make_settings: MakeSettings) -> None:
    def look(session: Session, _: str) -> tuple[object, ...] | None:
        """Past the hook that enters the scope, on the very connection of the requests."""
        driver = session.connection().connection.driver_connection
        assert driver is not None
        with driver.cursor() as cursor:
            cursor.execute(
                "SELECT current_user = session_user, current_setting('app.user_id', true),"
                " current_setting('statement_timeout')"
            )
            found: tuple[object, ...] | None = cursor.fetchone()
            return found

    def work(session: Session, user_id: str) -> tuple[object, ...]:
        found = session.connection().execute(
            text("SELECT current_user, current_setting('app.user_id'), current_setting('statement_timeout')")
        )
        return tuple(found.one())

    async def scenario() -> None:
        database = Database(make_settings(db_pool_size=1, db_statement_timeout=1.5))
        assert await database.run("somebody", work) == ("tasks_api", "somebody", "1500ms")
        assert await database.run("somebody", look) == (True, "", "0")
        with pytest.raises(ZeroDivisionError):
            await database.run("somebody", lambda session, user: 1 // 0)
        assert await database.run("another", work) == ("tasks_api", "another", "1500ms")
        await database.close()

    asyncio.run(scenario())


@pytest.mark.spec("schema.scope.local")
def test_session_state_does_not_leak_to_the_next_user(make_settings: MakeSettings) -> None:
    def leave(session: Session, user_id: str) -> None:
        now = datetime.now(UTC)
        session.add(
            Task(user_id=user_id, id=uuid.uuid4(), title="left", created_at=now, updated_at=now, seq=1)
        )

    def fail(session: Session, _: str) -> None:
        leave(session, "somebody else")
        session.flush()

    def commit(session: Session, user_id: str) -> Task:
        leave(session, user_id)
        [task] = session.new
        assert isinstance(task, Task)
        session.commit()
        return task

    def look(session: Session, _: str) -> tuple[int, int, int]:
        tasks = session.connection().execute(text("SELECT count(*) FROM tasks")).scalar_one()
        return len(session.new), len(session.identity_map), tasks

    async def scenario() -> None:
        database = Database(make_settings(db_pool_size=1))
        user = f"leaving-{uuid.uuid4()}"
        await database.run(user, leave)
        assert await database.run(user, look) == (0, 0, 0)
        committed = await database.run(f"{user}-too", commit)
        assert await database.run(user, look) == (0, 0, 0)
        with pytest.raises(DetachedInstanceError):
            _ = committed.title
        with pytest.raises(ProgrammingError, match="row-level security"):
            await database.run(user, fail)
        assert await database.run(user, look) == (0, 0, 0)
        await database.close()

    asyncio.run(scenario())


@pytest.mark.spec("problems.pool")
def test_cancelled_work_keeps_its_connection_until_it_ends(make_settings: MakeSettings) -> None:
    begun, finish = threading.Event(), threading.Event()

    def work(session: Session, _: str) -> None:
        begun.set()
        finish.wait(10)

    async def scenario() -> None:
        database = Database(make_settings(db_pool_size=1, db_pool_timeout=0.1))
        caller = asyncio.create_task(database.run("somebody", work))
        await asyncio.to_thread(begun.wait)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        with pytest.raises(PoolExhausted):
            await database.run("another", lambda session, user: None)
        finish.set()
        assert await database.run("another", lambda session, user: session.user_id) == "another"
        await database.close()

    asyncio.run(scenario())


@pytest.mark.spec("problems.pool")
def test_a_failed_thread_start_does_not_leak_a_connection(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def scenario() -> None:
        database = Database(make_settings(db_pool_size=1, db_pool_timeout=0.1))
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            with pytest.raises(RuntimeError):
                await database.run("somebody", lambda session, user: None)
        assert await database.run("somebody", lambda session, user: session.user_id) == "somebody"
        await database.close()

    asyncio.run(scenario())


@pytest.mark.spec("process.reconnect")
def test_a_connection_to_a_read_only_server_is_replaced(make_settings: MakeSettings) -> None:
    to_read_only = text("SET LOCAL transaction_read_only = on; UPDATE tasks SET title = 'x' RETURNING id")

    def write(session: UserSession, user: str) -> None:
        session.rows(to_read_only, {})

    def select_one(session: UserSession, user: str) -> object:
        return session.rows(text("SELECT 1"), {})

    async def scenario() -> None:
        database = Database(make_settings(db_pool_size=1))
        await database.run("somebody", select_one)
        [worker] = database._workers
        before = worker._connection
        with pytest.raises(InternalError, match="read-only"):
            await database.run("somebody", write)
        assert await database.run("somebody", select_one) == [(1,)]
        assert worker._connection is not before
        assert worker._session.user_id == ""
        await database.close()

    asyncio.run(scenario())


@pytest.mark.spec("schema.scope")
def test_no_rows_are_visible_without_a_user(make_settings: MakeSettings, owner: Caller) -> None:
    owner.create()

    def count(session: Session, _: str) -> int:
        return int(session.connection().execute(text("SELECT count(*) FROM tasks")).scalar_one())

    async def scenario() -> tuple[int, int]:
        database = Database(make_settings())
        counts = await database.run("", count), await database.run(owner.user_id, count)
        await database.close()
        return counts

    assert asyncio.run(scenario()) == (0, 1)


@pytest.mark.spec("process.reconnect")
def test_a_connection_closed_while_idle_is_replaced(watched: Caller, database_proxy: ProtocolProxy) -> None:
    task = watched.create()
    database_proxy.close_connections()
    assert watched.read(task["id"]) == task
    assert database_proxy.connections_opened == 2
    database_proxy.clear()
    assert watched.read(task["id"]) == task
    assert len(database_proxy.messages) == 1


@pytest.mark.spec("problems.unavailable")
def test_losing_the_connection_during_a_statement_gets_503(serve: Serve, database_url: URL, sql: Sql) -> None:
    client = serve(db_pool_size=1)
    caller = client_as(client, f"cut-{uuid.uuid4()}")
    task = caller.create()
    with Locked(database_url, task["id"]) as lock, ThreadPoolExecutor() as threads:
        waiting = threads.submit(caller.patch, task["id"], {"title": "x"})
        lock.wait_for_waiter(sql)
        lock.terminate_waiter(sql)
        response = waiting.result()
    assert_problem(response, 503, "unavailable")
    assert int(response.headers["retry-after"]) >= 1
    assert caller.read(task["id"]) == task


@pytest.mark.spec("problems.unavailable")
def test_a_statement_has_a_deadline(
    serve: Serve, database_url: URL, caplog: pytest.LogCaptureFixture
) -> None:
    """The server's own, which ends before the deadline of the request."""
    caller = client_as(serve(db_statement_timeout=0.2), f"late-{uuid.uuid4()}")
    task = caller.create()
    with Locked(database_url, task["id"]):
        response = caller.patch(task["id"], {"title": "x"})
        assert_problem(response, 503, "unavailable")
        assert int(response.headers["retry-after"]) >= 1
    assert "database unavailable: OperationalError (SQLSTATE 57014)" in caplog.messages
    assert caller.read(task["id"]) == task


@pytest.mark.spec("problems.pool")
def test_waiting_for_a_connection_times_out(serve: Serve, database_url: URL, sql: Sql) -> None:
    client = serve(db_pool_size=1, db_pool_timeout=0.2, db_connect_timeout=30, db_statement_timeout=30)
    caller = client_as(client, f"busy-{uuid.uuid4()}")
    task = caller.create()
    with Locked(database_url, task["id"]) as lock, ThreadPoolExecutor() as threads:
        holding = threads.submit(caller.patch, task["id"], {"title": "x"})
        lock.wait_for_waiter(sql)
        began_at = time.monotonic()
        response = caller.get(TASKS)
        assert 0.2 <= time.monotonic() - began_at < 15
        assert_problem(response, 503, "unavailable")
        assert int(response.headers["retry-after"]) >= 1
        assert client.get("/health/live").status_code == 200
        lock.release()
        assert ok(holding.result())["title"] == "x"
    assert caller.get(TASKS).status_code == 200


@pytest.mark.spec("problems.pool.writes")
def test_a_burst_of_writes_of_one_user_occupies_one_connection(
    serve: Serve, database_url: URL, sql: Sql
) -> None:
    client = serve(db_pool_size=2, db_pool_timeout=10, db_statement_timeout=30)
    caller = client_as(client, f"burst-{uuid.uuid4()}")
    task = caller.create()["id"]
    with Locked(database_url, task) as lock, ThreadPoolExecutor() as threads:
        changes = [threads.submit(caller.patch, task, {"title": str(number)}) for number in range(5)]
        lock.wait_for_waiter(sql)
        assert client_as(client, f"another-{uuid.uuid4()}").create()
        assert caller.read(task)["version"] == 1
        lock.release()
        assert sorted(ok(change.result())["version"] for change in changes) == [2, 3, 4, 5, 6]


@pytest.mark.spec("problems.pool", "problems.pool.writes")
def test_waiting_for_the_own_writes_times_out(serve: Serve, database_url: URL, sql: Sql) -> None:
    client = serve(db_pool_size=2, db_pool_timeout=0.2, db_statement_timeout=30)
    caller = client_as(client, f"waiting-{uuid.uuid4()}")
    task = caller.create()["id"]
    with Locked(database_url, task) as lock, ThreadPoolExecutor() as threads:
        first = threads.submit(caller.patch, task, {"title": "first"})
        lock.wait_for_waiter(sql)
        assert_problem(caller.patch(task, {"title": "second"}), 503, "unavailable")
        lock.release()
        assert ok(first.result())["title"] == "first"
    assert caller.read(task)["version"] == 2


@pytest.mark.spec("problems.pool.reads")
@pytest.mark.parametrize(("connections", "of_a_user"), [(5, 2), (2, 1), (1, 1)])
def test_the_reads_of_a_user_occupy_half_of_the_connections(
    make_settings: MakeSettings, connections: int, of_a_user: int
) -> None:
    """Also after the requests are cancelled, because the reads go on."""
    begun, finish = threading.Semaphore(0), threading.Event()

    def slow(session: UserSession, user: str) -> None:
        begun.release()
        finish.wait(10)

    async def scenario() -> None:
        database = Database(make_settings(db_pool_size=connections, db_pool_timeout=0.2))
        reads = [asyncio.create_task(database.run("somebody", slow)) for _ in range(of_a_user)]
        for _ in reads:
            await asyncio.to_thread(begun.acquire)
        with pytest.raises(PoolExhausted):
            await database.run("somebody", slow)
        for read in reads:
            read.cancel()
        await asyncio.wait(reads)
        with pytest.raises(PoolExhausted):
            await database.run("somebody", slow)
        others = [database.run(f"another-{n}", whose) for n in range(connections - of_a_user)]
        assert len(await asyncio.gather(*others)) == len(others)
        finish.set()
        assert await database.run("somebody", whose) == "somebody"
        await database.close()

    def whose(session: UserSession, user: str) -> str:
        return session.user_id

    asyncio.run(scenario())


@pytest.mark.spec("tasks.concurrent")
def test_concurrent_updates_are_all_applied(owner: Caller, serve: Serve, database_url: URL, sql: Sql) -> None:
    """By two processes, whose statements both have begun before either gets the lock."""
    task, again = owner.create()["id"], client_as(serve(), owner.user_id)
    with Locked(database_url, task) as lock, ThreadPoolExecutor() as threads:
        changes = [threads.submit(caller.patch, task, {"title": "x"}) for caller in (owner, again)]
        lock.wait_for_waiters(sql, 2)
        lock.release()
        first, second = sorted((ok(change.result()) for change in changes), key=itemgetter("version"))
    assert (first["version"], second["version"]) == (2, 3)
    assert first["updated_at"] < second["updated_at"]
    assert owner.read(task) == second


@pytest.mark.spec("tasks.concurrent", "task.timestamps")
def test_a_change_that_waited_bears_the_time_at_which_it_was_made(
    owner: Caller, database_url: URL, sql: Sql
) -> None:
    task = owner.create()["id"]
    with Locked(database_url, task) as lock, ThreadPoolExecutor() as threads:
        waiting = threads.submit(owner.patch, task, {"completed": True})
        lock.wait_for_waiter(sql)
        released_at = clock(sql)
        lock.change_and_release()
        changed = ok(waiting.result())
    assert changed["version"] == 3
    assert datetime.fromisoformat(changed["updated_at"]) >= released_at
    assert datetime.fromisoformat(changed["completed_at"]) >= released_at


@pytest.mark.spec("tasks.concurrent", "tasks.delete.gone")
def test_only_one_of_concurrent_deletes_succeeds(
    owner: Caller, serve: Serve, database_url: URL, sql: Sql
) -> None:
    task, again = owner.create()["id"], client_as(serve(), owner.user_id)
    with Locked(database_url, task) as lock, ThreadPoolExecutor() as threads:
        deletions = [threads.submit(caller.delete, task) for caller in (owner, again)]
        lock.wait_for_waiters(sql, 2)
        lock.release()
        assert sorted(deletion.result().status_code for deletion in deletions) == [204, 404]


@pytest.mark.spec("schema.scope.local", "tasks.isolation")
def test_concurrent_users_are_isolated(make_settings: MakeSettings) -> None:
    """Another user's request runs between the start of a request and its statement."""
    begun, proceed = threading.Event(), threading.Event()

    def scope(session: UserSession, _: str) -> object:
        return session.rows(text("SELECT current_setting('app.user_id')"), {})

    def scope_later(session: UserSession, user_id: str) -> object:
        begun.set()
        proceed.wait(10)
        return scope(session, user_id)

    async def scenario() -> None:
        database = Database(make_settings(db_pool_size=2))
        interrupted = asyncio.create_task(database.run("somebody", scope_later))
        await asyncio.to_thread(begun.wait)
        assert await database.run("another", scope) == [("another",)]
        proceed.set()
        assert await interrupted == [("somebody",)]
        await database.close()

    asyncio.run(scenario())


@pytest.mark.spec("tasks.durable")
def test_a_write_is_committed_before_its_response(owner: Caller, sql: Sql) -> None:
    task = owner.create(title="before")["id"]
    assert sql("SELECT title FROM tasks WHERE id = %s", task) == [("before",)]
    owner.patch(task, {"title": "after"})
    assert sql("SELECT title FROM tasks WHERE id = %s", task) == [("after",)]
    owner.delete(task)
    assert sql("SELECT deleted_at IS NOT NULL FROM tasks WHERE id = %s", task) == [(True,)]


class Locked:
    """Holds the write lock of a task's user, so that a change to it has to wait."""

    def __init__(self, url: URL, task_id: str) -> None:
        self._task_id = task_id
        self._sql = Sql(url)
        self._sql("BEGIN")
        self._sql(
            "SELECT pg_advisory_xact_lock(hashtextextended(user_id, 0)) FROM tasks WHERE id = %s", task_id
        )
        [[self._pid]] = self._sql("SELECT pg_backend_pid()")

    def __enter__(self) -> "Locked":
        return self

    def __exit__(self, *_: object) -> None:
        self._sql.close()

    def change_and_release(self) -> None:
        self._sql("UPDATE tasks SET version = version + 1 WHERE id = %s", self._task_id)
        self._sql("COMMIT")

    def release(self) -> None:
        self._sql("ROLLBACK")

    def wait_for_waiter(self, sql: Sql) -> None:
        query = "SELECT pid FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid))"
        wait_until(lambda: sql(query, self._pid), "nobody waits for the lock")

    def wait_for_waiters(self, sql: Sql, count: int) -> None:
        """Until so many statements of requests on the row wait, one behind the other."""
        query = (
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0"
        )
        wait_until(lambda: sql(query) == [(count,)], "nobody waits for the lock")

    def terminate_waiter(self, sql: Sql) -> None:
        sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid))",
            self._pid,
        )
