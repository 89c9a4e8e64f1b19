"""Faults of PostgreSQL and PgBouncer."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.chaos.environment import pooled
from tests.chaos.program import signal_all
from tests.chaos.runner import Run, Scenario
from tests.chaos.servers import DEADLINE
from tests.environment import Sql

HANG_SECONDS = DEADLINE + 2


@contextmanager
def crashed(run: Run) -> Iterator[None]:
    """SIGKILL to the postmaster and all backends; restart after a second."""
    run.postgres.kill()
    run.sleep(1)
    run.postgres.start()
    run.postgres.wait_until_up()
    yield


@contextmanager
def backend_crashed(run: Run) -> Iterator[None]:
    """SIGKILL to one backend: PostgreSQL terminates all sessions and recovers."""
    for _ in range(2):
        signal_all(run.postgres.backends()[:1], signal.SIGKILL)
        run.postgres.wait_until_up()
        run.sleep(0.5)
    yield


@contextmanager
def restarted(run: Run) -> Iterator[None]:
    run.postgres.restart()
    run.postgres.wait_until_up()
    yield


@contextmanager
def hung(run: Run) -> Iterator[None]:
    run.postgres.freeze()
    run.sleep(HANG_SECONDS)
    run.postgres.thaw()
    yield


@contextmanager
def service_backends_hung(run: Run) -> Iterator[None]:
    """SIGSTOP to all backends of the service; new connections can be opened."""
    frozen = run.postgres.backends()
    signal_all(frozen, signal.SIGSTOP)
    run.sleep(HANG_SECONDS)
    signal_all(frozen, signal.SIGCONT)
    yield


@contextmanager
def backends_terminated(run: Run) -> Iterator[None]:
    end = time.monotonic() + 4
    while time.monotonic() < end:
        run.postgres.terminate_backends()
        run.sleep(0.2)
    yield


@contextmanager
def table_locked(run: Run) -> Iterator[None]:
    with run.sql() as sql:
        sql("BEGIN")
        sql("LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE")
        run.sleep(5)
        sql("ROLLBACK")
    yield


@contextmanager
def rows_locked(run: Run) -> Iterator[None]:
    with run.sql() as sql:
        sql("BEGIN")
        sql("SELECT FROM tasks WHERE user_id = ANY(%s) FOR UPDATE", [user.name for user in run.load.users])
        run.sleep(5)
        sql("ROLLBACK")
    yield


@contextmanager
def read_only(run: Run) -> Iterator[None]:
    """The state of the old primary after a failover."""
    with run.sql() as sql:
        _set_read_only(run, sql, "on")
        run.sleep(4)
        _set_read_only(run, sql, "off")
    yield


def _set_read_only(run: Run, sql: Sql, value: str) -> None:
    sql(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
    run.postgres.reload()


SCENARIOS = [
    Scenario("PostgreSQL crashed", crashed),
    Scenario("PostgreSQL backend crashed", backend_crashed),
    Scenario("PostgreSQL restarted", restarted),
    Scenario("PostgreSQL hung", hung),
    Scenario("backends of the service hung", service_backends_hung),
    Scenario("backends terminated", backends_terminated, pooled),
    Scenario("table locked", table_locked, pooled),
    Scenario("rows locked", rows_locked, pooled),
    Scenario("read-only primary", read_only),
]
