"""Redis outages: limits fall back to in-process counters, and no request fails."""

from collections.abc import Iterator
from contextlib import contextmanager

from tests.chaos.checker import Outcome
from tests.chaos.environment import pooled
from tests.chaos.runner import Run, Scenario


@contextmanager
def stopped(run: Run) -> Iterator[None]:
    run.environment.redis.stop()
    run.sleep(4)
    run.environment.redis.start()
    yield
    _require_no_failures(run)


@contextmanager
def frozen(run: Run) -> Iterator[None]:
    run.environment.redis.freeze()
    run.sleep(6)
    run.environment.redis.thaw()
    yield
    _require_no_failures(run)


def _require_no_failures(run: Run) -> None:
    failures = sum(each.outcome is not Outcome.ACKNOWLEDGED for each in run.load.history)
    run.expect(not failures, f"{failures} requests failed")


SCENARIOS = [
    Scenario("Redis stopped", stopped, pooled),
    Scenario("Redis frozen", frozen, pooled),
]
