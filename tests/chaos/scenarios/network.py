"""Faults of the network between the service and its database."""

from collections.abc import Iterator
from contextlib import contextmanager

from tests.chaos.environment import proxied
from tests.chaos.proxy import NetworkFault
from tests.chaos.runner import MakeFault, Run, Scenario
from tests.chaos.servers import DEADLINE


def network_fault(kind: NetworkFault, seconds: float, one_in: int = 1) -> MakeFault:
    @contextmanager
    def fault(run: Run) -> Iterator[None]:
        proxy = run.route.proxy
        assert proxy is not None
        proxy.start(kind, one_in)
        run.sleep(seconds)
        proxy.end()
        if one_in > 1:
            run.notes.append(f"{proxy.faults_injected} answers broken")
            run.expect(proxy.faults_injected > 0, "no answer was broken")
        yield

    return fault


SCENARIOS = [
    Scenario("black hole", network_fault(NetworkFault.BLACK_HOLE, DEADLINE + 2), proxied),
    Scenario("reset within an answer", network_fault(NetworkFault.RESET_MID_RESPONSE, 4, 20), proxied),
    Scenario("answer dropped after commit", network_fault(NetworkFault.DROP_RESPONSE, 4, 20), proxied),
    Scenario("answer swallowed, TCP open", network_fault(NetworkFault.WITHHOLD_RESPONSE, 3, 50), proxied),
    Scenario("latency of 200 ms", network_fault(NetworkFault.LATENCY, 5), proxied),
]
