"""All scenarios by name, in the order in which they run."""

from tests.chaos.runner import Scenario
from tests.chaos.scenarios import database, network, process

SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario for module in (process, database, network) for scenario in module.SCENARIOS
}
