"""A database that stops responding while TCP stays up must not affect later requests."""

import asyncio
import logging
import threading
import time
import uuid

import pytest
from sqlalchemy import URL, text

import db
from database.session import UserSession
from db import Database, DatabaseTimeout, NotReady
from tests.conftest import MakeSettings, Serve
from tests.environment import Sql, libpq_url
from tests.protocol_proxy import ProtocolProxy, protocol_proxy
from tests.support import TASKS, Caller, assert_problem, client_as, wait_until

SHORT_TIMEOUTS = {"db_connect_timeout": 1, "db_statement_timeout": 0.2}


@pytest.fixture(autouse=True)
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the deadline of a request to 1.3 s."""
    assert db.GRACE_SECONDS == db.ABANDON_SECONDS == 1
    monkeypatch.setattr(db, "GRACE_SECONDS", 0.1)
    monkeypatch.setattr(db, "ABANDON_SECONDS", 0.1)


@pytest.fixture
def caller(serve: Serve, database_proxy: ProtocolProxy) -> Caller:
    """A user of a service with one database connection, through the protocol proxy."""
    client = serve(
        database_url=libpq_url(database_proxy.url), db_pool_size=1, db_pool_timeout=0.2, **SHORT_TIMEOUTS
    )
    return client_as(client, f"hung-{uuid.uuid4()}")


def select_one(session: UserSession, _: str) -> int:
    [[one]] = session.rows(text("SELECT 1"), {})
    return int(one)


@pytest.mark.spec("process.hung-connections", "problems.deadline")
def test_a_hung_connection_is_closed_and_replaced(
    caller: Caller, database_proxy: ProtocolProxy, caplog: pytest.LogCaptureFixture
) -> None:
    task = caller.create()
    database_proxy.silent = True
    started_at = time.monotonic()
    response = caller.patch(task["id"], {"title": "unknown"})
    assert time.monotonic() - started_at > 1.25
    assert_problem(response, 503, "unavailable")
    assert int(response.headers["retry-after"]) >= 1
    database_proxy.silent = False
    assert caller.read(task["id"])["version"] in {1, 2}
    assert database_proxy.connections_opened == 2
    assert [(record.levelname, record.getMessage()) for record in caplog.records if record.name == "db"] == [
        ("WARNING", "Database connection closed: no answer within 1.3 s")
    ]


@pytest.mark.spec("process.hung-connections")
def test_a_late_response_is_discarded(
    caller: Caller, database_proxy: ProtocolProxy, database_url: URL, sql: Sql
) -> None:
    """Later requests get their own responses, not the delayed one of an earlier request."""
    tasks = [caller.create(title=f"t{number}") for number in range(3)]
    database_proxy.held = True
    assert caller.get(f"{TASKS}/{tasks[0]['id']}").status_code == 503
    database_proxy.held = False
    assert [caller.read(task["id"])["title"] for task in tasks] == ["t0", "t1", "t2"]


@pytest.mark.spec("process.hung-connections")
@pytest.mark.parametrize("hangs_at", ["set_config", "pg_catalog.version()"])
def test_a_connection_that_hangs_during_setup_is_replaced(
    caller: Caller, database_proxy: ProtocolProxy, hangs_at: str
) -> None:
    database_proxy.silent_after = hangs_at
    assert_problem(caller.get(), 503, "unavailable")
    database_proxy.silent_after, database_proxy.silent = None, False
    assert caller.get().status_code == 200


@pytest.mark.spec("process.hung-connections")
def test_a_server_that_never_responds_does_not_leak_threads(
    caller: Caller, database_proxy: ProtocolProxy, caplog: pytest.LogCaptureFixture
) -> None:
    before = database_threads()
    database_proxy.silent = True
    assert_problem(caller.get(), 503, "unavailable")
    database_proxy.silent = False
    assert caller.get().status_code == 200
    assert database_threads() == before + 1
    assert errors(caplog) == []


@pytest.mark.spec("process.hung-connections")
def test_a_cancelled_request_does_not_leak_a_hung_thread(
    make_settings: MakeSettings, database_proxy: ProtocolProxy
) -> None:
    settings = make_settings(
        database_url=libpq_url(database_proxy.url), db_pool_size=1, db_pool_timeout=5, **SHORT_TIMEOUTS
    )

    async def scenario() -> int:
        database = Database(settings)
        await database.run("somebody", select_one)
        database_proxy.silent = True
        caller = asyncio.create_task(database.run("somebody", select_one))
        await asyncio.to_thread(wait_until, lambda: len(database_proxy.messages) > 1, "nothing was sent")
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        database_proxy.silent = False
        found = await database.run("somebody", select_one)
        await database.close()
        return found

    database_proxy.clear()
    assert asyncio.run(scenario()) == 1


@pytest.mark.spec("process.hung-connections")
def test_shutdown_does_not_wait_for_hung_connections(
    make_settings: MakeSettings, database_proxy: ProtocolProxy
) -> None:
    settings = make_settings(database_url=libpq_url(database_proxy.url), db_pool_size=2, **SHORT_TIMEOUTS)

    async def scenario() -> None:
        database = Database(settings)
        await database.run("somebody", select_one)
        database_proxy.silent = True
        with pytest.raises(DatabaseTimeout):
            await database.run("somebody", select_one)
        await database.close()

    before = database_threads()
    asyncio.run(scenario())
    assert database_threads() == before


@pytest.fixture
def hanging_login_url(database_url: URL, sql: Sql) -> URL:
    """A login for which connecting hangs forever once the proxy is silent.

    Its DateStyle is not ISO, so psycopg2 sends a statement while connecting and waits
    for the response without a timeout.
    """
    name = f"unending_{uuid.uuid4().hex}"
    sql(f"CREATE ROLE {name} LOGIN SUPERUSER PASSWORD 'unending'")
    sql(f"ALTER ROLE {name} SET DateStyle = 'German'")
    return database_url.set(username=name, password="unending")


@pytest.mark.spec("process.hung-connections", "problems.deadline")
def test_nothing_is_written_on_a_connection_that_opens_too_late(
    serve: Serve, hanging_login_url: URL, caplog: pytest.LogCaptureFixture
) -> None:
    with protocol_proxy(hanging_login_url) as proxy:
        client = serve(
            database_url=libpq_url(proxy.url), db_pool_size=1, db_pool_timeout=0.2, **SHORT_TIMEOUTS
        )
        caller = client_as(client, f"late-{uuid.uuid4()}")
        before = database_threads()
        proxy.held_after = "SET datestyle"
        assert_problem(caller.post({"title": "too late"}), 503, "unavailable")
        wait_until(lambda: errors(caplog) == ["Database thread abandoned"], "the thread is not abandoned")
        proxy.held_after, proxy.held = None, False
        wait_until(lambda: database_threads() == before, "the abandoned thread stays")
        assert caller.get().json() == []


@pytest.mark.spec("process.hung-connections", "health.live.stuck")
def test_hung_threads_are_abandoned_up_to_a_limit(
    serve: Serve, hanging_login_url: URL, caplog: pytest.LogCaptureFixture
) -> None:
    with protocol_proxy(hanging_login_url) as proxy:
        proxy.silent_after = "SET datestyle"
        client = serve(
            database_url=libpq_url(proxy.url), db_pool_size=1, db_pool_timeout=0.2, **SHORT_TIMEOUTS
        )
        caller = client_as(client, f"unending-{uuid.uuid4()}")
        before = database_threads()
        first = caller.get(headers={"X-Request-ID": "the-first"})
        assert_problem(first, 503, "unavailable")
        wait_until(lambda: errors(caplog) == ["Database thread abandoned"], "the thread is not abandoned")
        assert client.get("/health/live").status_code == 200
        proxy.silent = False
        assert_problem(caller.get(), 503, "unavailable")
        wait_until(lambda: client.get("/health/live").status_code == 503, "liveness does not fail")
        assert_problem(client.get("/health/live"), 503, "unavailable")
        assert database_threads() == before + 2
        assert errors(caplog) == ["Database thread abandoned", "Database thread stuck"]
        proxy.silent_after, proxy.silent = None, False
        proxy.close_connections()
        wait_until(lambda: client.get("/health/live").status_code == 200, "it does not recover")
        wait_until(lambda: caller.get().status_code == 200, "it does not recover")
        wait_until(lambda: database_threads() == before + 1, "the abandoned thread stays")


@pytest.mark.spec("process.hung-connections", "process.stop.silent")
def test_a_stop_does_not_wait_for_a_thread_that_never_returns(
    make_settings: MakeSettings, hanging_login_url: URL
) -> None:
    with protocol_proxy(hanging_login_url) as proxy:
        proxy.silent_after = "SET datestyle"
        settings = make_settings(database_url=libpq_url(proxy.url), db_pool_size=1, **SHORT_TIMEOUTS)

        async def scenario() -> float:
            database = Database(settings)
            with pytest.raises(DatabaseTimeout):
                await database.run("somebody", select_one)
            started_at = time.monotonic()
            await database.close()
            return time.monotonic() - started_at

        before = database_threads()
        assert asyncio.run(scenario()) < 10
        assert database_threads() == before + 1
        proxy.close_connections()
        wait_until(lambda: database_threads() == before, "the thread stays")


def database_threads() -> int:
    return sum(thread.name == "database" for thread in threading.enumerate())


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage().partition(":")[0].partition(",")[0]
        for record in caplog.records
        if record.name == "db" and record.levelno == logging.ERROR
    ]


@pytest.mark.spec("health.ready.once")
def test_cancelled_readiness_checks_share_one_connection(
    make_settings: MakeSettings, database_proxy: ProtocolProxy
) -> None:
    settings = make_settings(database_url=libpq_url(database_proxy.url), db_pool_size=2, **SHORT_TIMEOUTS)

    async def scenario() -> None:
        database = Database(settings)
        database_proxy.silent = True
        for _ in range(5):
            check = asyncio.create_task(database.check_ready())
            await asyncio.sleep(0)
            check.cancel()
        with pytest.raises(NotReady):
            await database.check_ready()
        assert len(database._workers) == 1
        await database.close()

    asyncio.run(scenario())
