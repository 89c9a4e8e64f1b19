"""Set-ups with a database that is absent, goes away, hangs, is locked or is damaged."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from httpx2 import Response

from db import SCHEMA_REVISION
from tests.environment import FAIL_WITH_TITLE, Sql, new_database
from tests.fuzz.context import User
from tests.fuzz.lab import Lab, accept_each_operation, log_lines, refuse_each_operation, set_up
from tests.fuzz.prober import JSON, Prober, valid
from tests.operations import ON_ONE_TASK, OPERATIONS
from tests.protocol_proxy import ProtocolProxy, protocol_proxy
from tests.spec_tables import sqlstates
from tests.support import TASKS, wait_until
from tools.postgres import free_port

TIMEOUTS = {"DB_CONNECT_TIMEOUT": "1", "DB_STATEMENT_TIMEOUT": "0.5", "DB_POOL_TIMEOUT": "0.5"}
LONG_TIMEOUTS = {"DB_CONNECT_TIMEOUT": "20", "DB_STATEMENT_TIMEOUT": "20"}
DEADLINE = 2.5
"""Seconds, by `problems.deadline` with TIMEOUTS."""
HELD_SECONDS = 0.2
TOLERANCE = 3
"""Seconds beyond the deadline, on a busy machine."""


def expect_unavailable(prober: Prober, user: User, reason: str) -> None:
    """Every operation gets a 503; whoever is not authenticated still gets a 401."""
    for response in refuse_each_operation(prober, 503, "unavailable", user):
        _expect_detail(prober, response, "The database cannot serve this request now.")
    refuse_each_operation(prober, 401, "unauthorized", "invalid")
    _expect_detail(prober, prober.accept(503, "GET", "/health/ready"), reason)
    prober.accept(200, "GET", "/health/live")


def _expect_detail(prober: Prober, response: Response, detail: str) -> None:
    found = response.json().get("detail")
    prober.expect(found == detail, f"the detail is {found!r} and not {detail!r}", response)


@set_up("problems.unavailable", "auth.no-database", "health.ready", "health.live", at_least=14)
def a_database_that_is_absent(lab: Lab) -> None:
    url = lab.context.database.set(host="127.0.0.1", port=free_port())
    with lab.service(url, **TIMEOUTS) as prober:
        expect_unavailable(prober, lab.user(), "The database does not answer.")


@set_up("problems.unavailable", "health.ready", at_least=14)
def a_database_that_is_not_migrated(lab: Lab) -> None:
    with new_database(lab.context.database) as empty, lab.service(empty, **TIMEOUTS) as prober:
        expect_unavailable(prober, lab.user(), "The schema is not migrated.")


@contextmanager
def behind_proxy(lab: Lab, **settings: str) -> Iterator[tuple[ProtocolProxy, Prober]]:
    with (
        protocol_proxy(lab.context.database) as proxy,
        lab.service(proxy.url, **{**TIMEOUTS, **settings}) as prober,
    ):
        yield proxy, prober


@set_up("process.reconnect", "problems.unavailable", at_least=15)
def a_database_that_goes_away_and_comes_back(lab: Lab) -> None:
    port = free_port()
    user = lab.user()
    url = lab.context.database.set(host="127.0.0.1", port=port)
    with lab.service(url, **TIMEOUTS) as prober:
        for _ in range(2):
            with protocol_proxy(lab.context.database, port) as proxy:
                wait_until(lambda: _status(prober, "/health/ready") == 200, "the database is not found again")
                accept_each_operation(prober, user)
                # Closed while idle: the next request opens another.
                proxy.close_connections()
                prober.accept(200, "GET", TASKS, token=user)
            refuse_each_operation(prober, 503, "unavailable", user)


def _status(prober: Prober, path: str) -> int:
    return prober.request("GET", path).status_code


@set_up("problems.deadline", "process.hung-connections", at_least=2)
def a_database_that_hangs(lab: Lab) -> None:
    """A request ends at its deadline; its connection is not used again."""
    with behind_proxy(lab) as (proxy, prober):
        user = lab.user()
        prober.accept(200, "GET", TASKS, token=user)
        proxy.silent = True
        started = time.monotonic()
        late = prober.refuse(503, "unavailable", "GET", TASKS, token=user)
        _expect_detail(prober, late, "The database did not answer in time.")
        seconds = time.monotonic() - started
        prober.expect(DEADLINE <= seconds < DEADLINE + TOLERANCE, f"the deadline came after {seconds:.1f} s")
        proxy.silent = False
        prober.accept(200, "GET", TASKS, token=user)


@set_up("headers.server-timing", "process.logs")
def a_connection_that_opens_slowly(lab: Lab) -> None:
    """Opening it counts as waiting, not as the statement."""
    user = lab.user()
    with behind_proxy(lab, DB_POOL_SIZE="1") as (proxy, prober), ThreadPoolExecutor(1) as threads:
        proxy.held = True
        opened = proxy.connections_opened
        first = threads.submit(prober.accept, 200, "GET", TASKS, token=user)
        wait_until(lambda: proxy.connections_opened > opened, "the request opens no connection")
        held_at = time.monotonic()
        wait_until(lambda: time.monotonic() > held_at + HELD_SECONDS, "the clock does not advance")
        proxy.held = False
        timing = first.result().headers.get("Server-Timing", "")
        waited = float(timing.rpartition("wait;dur=")[2] or 0)
        prober.expect(waited >= HELD_SECONDS * 1000, f"the Server-Timing is {timing!r}", first.result())
        wait_until(lambda: log_lines(prober, first.result()), "the request has no line in the log")
        duration = log_lines(prober, first.result())[-1]["duration_ms"]
        prober.expect(duration >= HELD_SECONDS * 1000, f"the logged duration is {duration}", first.result())


@set_up("problems.pool", at_least=2)
def a_pool_that_is_exhausted(lab: Lab) -> None:
    with (
        behind_proxy(lab, DB_POOL_SIZE="1", **LONG_TIMEOUTS) as (proxy, prober),
        ThreadPoolExecutor() as threads,
    ):
        user = lab.user()
        prober.accept(200, "GET", TASKS, token=user)
        proxy.clear()
        proxy.held = True
        first = threads.submit(prober.client.get, TASKS, headers={"Authorization": f"Bearer {user.token}"})
        wait_until(lambda: proxy.messages, "the first request sends no statement")
        started = time.monotonic()
        refused = prober.refuse(503, "unavailable", "GET", TASKS, token=user)
        seconds = time.monotonic() - started
        prober.expect(0.5 <= seconds < 10, f"a request waited {seconds:.1f} s for a connection", refused)
        _expect_detail(prober, refused, "All database connections are busy.")
        proxy.held = False
        first.result()


@set_up("problems.unavailable", at_least=len(ON_ONE_TASK) - 1)
def a_task_that_is_locked(lab: Lab) -> None:
    """A write waits for a lock until the statement's timeout, and then changes nothing; a read does not."""
    lock = Sql(lab.context.database)
    with lab.service(**TIMEOUTS) as prober:
        user = lab.user()
        created = prober.request("POST", TASKS, token=user, content=b'{"title": "Locked"}', headers=JSON)
        task = created.json()["id"]
        lock("BEGIN")
        lock("SELECT id FROM tasks WHERE user_id = %s FOR UPDATE", user.id)
        try:
            for operation in ON_ONE_TASK:
                request = valid(operation, user)
                # Restoring a task that is not deleted changes nothing.
                if operation.method == "GET" or operation.takes_deleted:
                    prober.accept(200, operation.method, operation.url(task), **request)
                else:
                    prober.refuse(503, "unavailable", operation.method, operation.url(task), **request)
        finally:
            lock("ROLLBACK")
            lock.close()
        prober.accept(204, "DELETE", f"{TASKS}/{task}", token=user)


@set_up("problems.unavailable", "process.reconnect", at_least=3)
def a_server_that_is_read_only_for_a_while(lab: Lab) -> None:
    """After a failover, a connection to the former primary is replaced, so that writes succeed again."""
    sql, name = lab.context.sql, lab.context.database.database
    create = next(each for each in OPERATIONS if each.method == "POST")
    user = lab.user()
    with lab.service(**TIMEOUTS, DB_POOL_SIZE="1") as prober:
        sql(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
        try:
            prober.accept(200, "GET", TASKS, token=user)
        finally:
            sql(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
        prober.refuse(503, "unavailable", "POST", TASKS, **valid(create, user))
        prober.accept(201, "POST", TASKS, **valid(create, user))


SQLSTATES = {**dict(sqlstates()), "57P01": 503, "53300": 503, "08006": 503, "23505": 500, "22001": 500}

UNREADY = (
    ("ALTER TABLE tasks DISABLE ROW LEVEL SECURITY", "ALTER TABLE tasks ENABLE ROW LEVEL SECURITY",
     "Row security is not active."),
    ("ALTER TABLE feeds DISABLE ROW LEVEL SECURITY", "ALTER TABLE feeds ENABLE ROW LEVEL SECURITY",
     "Row security is not active."),
    ("REVOKE SELECT ON alembic_version FROM tasks_api", "GRANT SELECT ON alembic_version TO tasks_api",
     "The schema is not migrated."),
    ("UPDATE alembic_version SET version_num = '0000'",
     f"UPDATE alembic_version SET version_num = '{SCHEMA_REVISION}'",
     "The schema is not migrated."),
)  # fmt: skip
"""What makes a database unusable, what repairs it, and how the service explains it."""


@set_up("health.ready", "schema.revision", at_least=1)
def a_database_of_a_later_version(lab: Lab) -> None:
    with lab.service(**TIMEOUTS) as prober:
        lab.context.sql("UPDATE alembic_version SET version_num = '9999'")
        try:
            prober.accept(200, "GET", "/health/ready")
        finally:
            lab.context.sql(f"UPDATE alembic_version SET version_num = '{SCHEMA_REVISION}'")


@set_up("health.ready", "schema.revision", at_least=2 * len(UNREADY))
def a_database_that_must_not_be_used(lab: Lab) -> None:
    for damage, repair, reason in UNREADY:
        with lab.service(**TIMEOUTS) as prober:
            lab.context.sql(damage)
            try:
                _expect_detail(prober, prober.accept(503, "GET", "/health/ready"), reason)
            finally:
                lab.context.sql(repair)
            # A result is cached for a second.
            wait_until(lambda: _status(prober, "/health/ready") == 200, "the service is never ready again")
            prober.met()


@set_up("problems.sqlstate", "problems.unavailable", "problems.unforeseen", at_least=len(SQLSTATES))
def an_error_of_each_sqlstate(lab: Lab) -> None:
    user = lab.user()
    with lab.service(**TIMEOUTS) as prober:
        lab.context.sql(FAIL_WITH_TITLE)
        try:
            for state, status in SQLSTATES.items():
                content = b'{"title": "%b"}' % state.encode()
                response = prober.accept(status, "POST", TASKS, token=user, content=content, headers=JSON)
                waits = "Retry-After" in response.headers
                prober.expect(waits is (status == 503), f"{state}: Retry-After is wrong", response)
        finally:
            lab.context.sql("DROP TRIGGER fail ON tasks; DROP FUNCTION fail()")


@set_up("problems.privilege", "problems.unforeseen", "process.logs.unforeseen", at_least=len(OPERATIONS))
def a_role_without_its_grants(lab: Lab) -> None:
    """A missing grant is a bug or an attack: 500, nothing about trying again, and an alarm in the log."""
    with lab.service(**TIMEOUTS) as prober:
        user = lab.user()
        sql = lab.context.sql
        rights = sql(
            "SELECT string_agg(privilege_type, ', ') FROM information_schema.role_table_grants"
            " WHERE table_name = 'tasks' AND grantee = 'tasks_api'"
        )[0][0]
        columns = sql(
            "SELECT privilege_type, string_agg(column_name, ', ') FROM information_schema.column_privileges"
            " WHERE table_name = 'tasks' AND grantee = 'tasks_api' GROUP BY privilege_type"
        )
        sql("REVOKE ALL ON tasks FROM tasks_api")
        sql("REVOKE EXECUTE ON FUNCTION erase_account FROM tasks_api")
        try:
            responses = refuse_each_operation(prober, 500, "internal-error", user)
        finally:
            if rights:
                sql(f"GRANT {rights} ON tasks TO tasks_api")
            for right, names in columns:
                sql(f"GRANT {right} ({names}) ON tasks TO tasks_api")
            sql("GRANT EXECUTE ON FUNCTION erase_account TO tasks_api")
        for response in responses:
            if response.status_code == 500:
                _expect_alarm(prober, response)
        accept_each_operation(prober, user)


def _expect_alarm(prober: Prober, response: Response) -> None:
    prober.expect("Retry-After" not in response.headers, "a 500 says when to try again", response)
    wait_until(lambda: len(log_lines(prober, response)) > 1, "an error has no line in the log")
    [alarm] = [line for line in log_lines(prober, response) if line["level"] == "ERROR"]
    prober.expect(alarm.get("exception"), "an error has no traceback", response)
