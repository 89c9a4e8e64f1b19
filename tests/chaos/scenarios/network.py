"""Faults of the network between the service and its database."""

from collections.abc import Iterator
from contextlib import contextmanager

from tests.chaos.environment import proxied
from tests.chaos.proxy import Break
from tests.chaos.runner import MakeFault, Run, Scenario
from tests.chaos.servers import DEADLINE


def broken(kind: Break, seconds: float, every: int = 1) -> MakeFault:
    @contextmanager
    def fault(run: Run) -> Iterator[None]:
        proxy = run.route.proxy
        assert proxy is not None
        proxy.start(kind, every)
        run.hold(seconds)
        proxy.end()
        if every > 1:
            run.notes.append(f"{proxy.broken} answers broken")
            run.demand(proxy.broken > 0, "no answer was broken")
        yield

    return fault


SCENARIOS = [
    Scenario("black hole", broken(Break.BLACK_HOLE, DEADLINE + 2), proxied),
    Scenario("reset within an answer", broken(Break.RESET_IN_ANSWER, 4, 20), proxied),
    Scenario("answer dropped after commit", broken(Break.DROP_ANSWER, 4, 20), proxied),
    Scenario("answer swallowed, TCP open", broken(Break.SWALLOW_ANSWER, 3, 50), proxied),
    Scenario("latency of 200 ms", broken(Break.LATENCY, 5), proxied),
]
