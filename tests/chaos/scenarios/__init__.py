"""All scenarios by name, in order of execution."""

from tests.chaos.runner import Scenario
from tests.chaos.scenarios import (
    clients,
    database,
    failover,
    network,
    pool,
    process,
    redis,
    releases,
    tls,
)

_MODULES = (process, database, pool, network, failover, redis, clients, releases, tls)

SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario for module in _MODULES for scenario in module.SCENARIOS
}
