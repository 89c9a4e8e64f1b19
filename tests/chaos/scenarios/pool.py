"""Faults of connection pools: the service's own and PgBouncer."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from tests.chaos.environment import direct, pooled
from tests.chaos.program import signal_all
from tests.chaos.runner import Run, Scenario
from tests.chaos.scenarios.database import HANG_SECONDS, crashed
from tests.chaos.scenarios.lock_contention import WAITING_FOR_LOCK, all_connections_waiting
from tests.chaos.servers import Pooler


@contextmanager
def exhausted(run: Run) -> Iterator[None]:
    """Every connection waits for a lock, so requests wait for a connection."""
    with all_connections_waiting(run):
        run.sleep(4)
    run.expect(run.count(503) > 0, "no request was refused")
    yield


@contextmanager
def backends_in_use_hung(run: Run) -> Iterator[None]:
    """Every connection in use hangs, and stays hung while the service has to recover."""
    with all_connections_waiting(run):
        frozen = run.postgres.backends(WAITING_FOR_LOCK)
        signal_all(frozen, signal.SIGSTOP)
    run.notes.append(f"{len(frozen)} backends hung until after the recovery")
    try:
        yield
    finally:
        signal_all(frozen, signal.SIGCONT)


def _pooler(run: Run) -> Pooler:
    assert run.route.pooler is not None
    return run.route.pooler


@contextmanager
def pooler_restarted(run: Run) -> Iterator[None]:
    _pooler(run).kill()
    run.sleep(1)
    _pooler(run).start()
    yield


@contextmanager
def pooler_hung(run: Run) -> Iterator[None]:
    _pooler(run).freeze()
    run.sleep(HANG_SECONDS)
    _pooler(run).thaw()
    yield


SCENARIOS = [
    Scenario("pool exhausted", exhausted, direct, {"DB_STATEMENT_TIMEOUT": "8", "DB_POOL_TIMEOUT": "1"}),
    Scenario("backends in use hung", backends_in_use_hung),
    Scenario("PgBouncer restarted", pooler_restarted, pooled),
    Scenario("PgBouncer hung", pooler_hung, pooled),
    Scenario("PgBouncer's server crashed", crashed, pooled),
]
