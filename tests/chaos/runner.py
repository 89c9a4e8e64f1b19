"""Runs one scenario: load, fault, recovery, consistency check.

A fault is a context manager. It injects and ends the fault before it yields; code
after the yield runs once recovery has been measured.
"""

import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass, field

from tests.chaos.checker import (
    READS,
    Anomaly,
    Operation,
    Outcome,
    Task,
    check,
    distinct,
    duplicates_from_retries,
)
from tests.chaos.environment import Environment, MakeRoute, Route, direct
from tests.chaos.servers import Postgres, Web
from tests.chaos.workload import NOT_SENT, TIMEOUT_SECONDS, Target, Workload, list_all, workload
from tests.environment import Sql

LOAD_SECONDS = 1.0
"""Load before the fault and after the recovery."""

RECOVERY_SECONDS = 10.0
SCENARIO_SECONDS = 25.0

EXPECTED_STATUSES = {200, 201, 204, 429, 503, NOT_SENT, None}
"""The checker decides whether a 404 is correct."""


@dataclass
class Run:
    """The components that a fault can affect, and the problems it reports."""

    environment: Environment
    route: Route
    web: Web
    load: Workload
    stack: ExitStack
    """Closed after the consistency check."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def postgres(self) -> Postgres:
        return self.route.postgres

    @contextmanager
    def sql(self) -> Iterator[Sql]:
        with closing(Sql(self.postgres.url)) as connection:
            yield connection

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def count(self, status: int) -> int:
        """How many responses have had this status so far."""
        return sum(each.status == status for each in self.load.history)

    def expect(self, holds: bool, otherwise: str) -> None:
        """Check a requirement of the scenario."""
        if not holds:
            self.problems.append(otherwise)


MakeFault = Callable[[Run], AbstractContextManager[None]]


@dataclass(frozen=True)
class Scenario:
    name: str
    fault: MakeFault
    route: MakeRoute = direct
    settings: Mapping[str, str] = field(default_factory=dict)
    data_loss_allowed: bool = False
    """With asynchronous replication, writes lost in a failover are reported but are no violation."""
    skip_reason: Callable[[], str | None] = lambda: None
    """Why the scenario cannot run on this machine, or None."""


@dataclass
class Result:
    name: str
    acknowledged: int = 0
    anomalies: Counter[Anomaly] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    without_retry_after: int = 0
    retries: int = 0
    duplicates: int = 0
    slowest: float = 0.0
    recovery: float | None = None
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    skipped: str | None = None

    @property
    def failed(self) -> bool:
        return bool(self.problems)


def run(scenario: Scenario, environment: Environment) -> Result:
    """Run a scenario; an exception becomes a problem of the result."""
    if reason := scenario.skip_reason():
        return Result(scenario.name, skipped=reason)
    result = Result(scenario.name)
    try:
        _run(scenario, environment, result)
    except Exception as error:
        traceback.print_exc()
        result.problems.append(f"{type(error).__name__}: {error}")
        environment.restore()
    return result


def _run(scenario: Scenario, environment: Environment, result: Result) -> None:
    with ExitStack() as stack:
        route = stack.enter_context(scenario.route(environment))
        web = stack.enter_context(environment.web(route, scenario.settings))
        users = environment.new_name(scenario.name)
        load = stack.enter_context(workload(users, Target(web.port), environment.seed))
        started_at = time.monotonic()
        running = Run(environment, route, web, load, stack, result.problems, result.notes)
        running.sleep(LOAD_SECONDS)
        with scenario.fault(running):
            result.recovery = load.wait_until_recovered(RECOVERY_SECONDS)
            running.sleep(LOAD_SECONDS)
        load.stop()
        result.seconds = time.monotonic() - started_at
        with running.sql() as sql:
            rows = stored_tasks(load, sql)
        _evaluate(scenario, load, listed_tasks(load), rows, result)


def listed_tasks(load: Workload) -> dict[str, list[Task]]:
    """Each user's tasks from the API; users whose list failed are left out."""
    seen: dict[str, list[Task]] = {}
    for user in load.users:
        response, tasks = list_all(user.connection)
        user.connection.close()
        if response.status == 200:
            seen[user.name] = [*tasks]
    return seen


def stored_tasks(load: Workload, sql: Sql) -> list[Task]:
    """The users' rows, and rows with one of their titles that another user owns."""
    columns = ("user_id", "id", "title", "description", "tags", "completed", "priority", "version")
    found = sql(
        f"SELECT {', '.join(columns)} FROM tasks"
        " WHERE deleted_at IS NULL AND (user_id = ANY(%s) OR substring(title from '^(.*)#') = ANY(%s))",
        names := [user.name for user in load.users],
        names,
    )
    return [dict(zip(columns, row, strict=True)) for row in found]


def _evaluate(
    scenario: Scenario,
    load: Workload,
    api: Mapping[str, list[Task]],
    rows: list[Task],
    result: Result,
) -> None:
    history = load.history
    if unlisted := [user.name for user in load.users if user.name not in api]:
        result.problems.append(f"{len(unlisted)} users cannot list their tasks after the recovery")
    violations = distinct([*load.violations, *check(history, api, rows)])
    result.anomalies = Counter(violation.anomaly for violation in violations)
    if scenario.data_loss_allowed:
        lost = result.anomalies.pop(Anomaly.LOST, 0)
        result.notes.append(f"{lost} tasks lost a write, or are lost")
        violations = [each for each in violations if each.anomaly is not Anomaly.LOST]
    result.problems += [f"{each.anomaly}: {each.user}, {each.task}: {each.text}" for each in violations]
    _count(history, load.statuses, result)
    result.duplicates = duplicates_from_retries(history, rows)
    if result.recovery is None:
        result.problems.append(f"not recovered within {RECOVERY_SECONDS:.0f} s")
    if result.seconds > SCENARIO_SECONDS:
        result.problems.append(f"took {result.seconds:.1f} s")


def _count(history: list[Operation], statuses: Counter[str], result: Result) -> None:
    result.statuses = statuses
    result.acknowledged = sum(
        each.outcome is Outcome.ACKNOWLEDGED and each.kind not in READS for each in history
    )
    result.retries = sum(each.retry_of_unknown for each in history)
    result.slowest = max((each.ended - each.started_at for each in history), default=0.0)
    result.without_retry_after = sum(each.status in {429, 503} and not each.retry_after for each in history)
    if result.without_retry_after:
        result.problems.append(f"{result.without_retry_after} answers without Retry-After")
    unexpected = Counter(each.status for each in history if each.status not in {*EXPECTED_STATUSES, 404})
    result.problems += [f"{count} answers with status {status}" for status, count in unexpected.items()]
    unanswered = sum(
        each.status is None and each.ended - each.started_at >= TIMEOUT_SECONDS for each in history
    )
    if unanswered:
        result.problems.append(f"{unanswered} requests without an answer for {TIMEOUT_SECONDS:.0f} s")
