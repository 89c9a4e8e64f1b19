"""The fast part of `make chaos`: some scenarios, and anomalies injected into the data of a real run."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import pytest

from tests.chaos.checker import Anomaly, Task, check, content, marker
from tests.chaos.environment import Environment, environment, pooled
from tests.chaos.runner import listed_tasks, run, stored_tasks
from tests.chaos.scenarios import SCENARIOS
from tests.chaos.servers import DEADLINE
from tests.chaos.workload import Target, Workload, workload
from tests.environment import Sql
from tests.support import wait_until


@pytest.fixture(scope="module")
def servers() -> Iterator[Environment]:
    with environment("tests") as running:
        yield running


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("worker killed", marks=pytest.mark.spec("tasks.durable")),
        pytest.param("backends terminated", marks=pytest.mark.spec("problems.unavailable")),
        pytest.param("answer dropped after commit", marks=pytest.mark.spec("tasks.durable")),
        pytest.param("answer swallowed, TCP open", marks=pytest.mark.spec("problems.deadline")),
    ],
)
def test_no_acknowledged_write_is_lost(servers: Environment, name: str) -> None:
    result = run(SCENARIOS[name], servers)
    assert result.problems == []
    assert result.acknowledged > 0
    assert result.slowest < DEADLINE + 2


@dataclass
class Finished:
    """A finished workload with a superuser's connection, and the tasks from API and database."""

    load: Workload
    sql: Sql
    api: dict[str, list[Task]]
    rows: list[Task]

    def anomalies(self) -> tuple[set[Anomaly], set[Anomaly]]:
        """The anomalies found from the API alone, and from the database alone."""
        history = self.load.history
        by_api = check(history, listed_tasks(self.load), self.rows)
        by_rows = check(history, self.api, stored_tasks(self.load, self.sql))
        return {each.anomaly for each in by_api}, {each.anomaly for each in by_rows}


@pytest.fixture(scope="module")
def ended_run(servers: Environment) -> Iterator[Finished]:
    with pooled(servers) as route, servers.web(route, {}) as web, closing(Sql(route.postgres.url)) as sql:
        with workload(servers.new_name("planted"), Target(web.port), servers.seed) as load:
            wait_until(lambda: all(len(user.history) > 60 for user in load.users), "the users get no answers")
        yield Finished(load, sql, listed_tasks(load), stored_tasks(load, sql))


@pytest.fixture
def finished(ended_run: Finished) -> Iterator[Finished]:
    """Restores the table after each test."""
    ended_run.sql("CREATE TABLE saved AS TABLE tasks")
    yield ended_run
    ended_run.sql("TRUNCATE tasks")
    ended_run.sql("INSERT INTO tasks TABLE saved")
    ended_run.sql("DROP TABLE saved")


def test_an_undisturbed_run_has_no_violations(finished: Finished) -> None:
    assert finished.load.violations == []
    assert finished.anomalies() == (set(), set())


def test_it_detects_a_lost_delete(finished: Finished) -> None:
    user = finished.load.users[0].name
    finished.sql(
        "UPDATE tasks SET deleted_at = NULL"
        " WHERE id = (SELECT id FROM tasks WHERE user_id = %s AND deleted_at IS NOT NULL LIMIT 1)",
        user,
    )
    assert finished.anomalies() == ({Anomaly.LOST}, {Anomaly.LOST})


def test_it_detects_a_duplicate_insert(finished: Finished) -> None:
    columns = "user_id, title, description, completed, completed_at, priority, tags, version"
    finished.sql(
        f"INSERT INTO tasks (id, {columns})"
        f" SELECT gen_random_uuid(), {columns} FROM tasks WHERE id::text = %s",
        task_of(finished, 0),
    )
    assert finished.anomalies() == ({Anomaly.DUPLICATE}, {Anomaly.DUPLICATE})


def test_it_detects_a_wrong_owner(finished: Finished) -> None:
    other = finished.load.users[1].name
    finished.sql("UPDATE tasks SET user_id = %s WHERE id::text = %s", other, task_of(finished, 0))
    both = {Anomaly.LOST, Anomaly.WRONG_OWNER}
    assert finished.anomalies() == (both, both)


def test_it_detects_a_half_applied_write(finished: Finished) -> None:
    finished.sql("UPDATE tasks SET tags = '{}' WHERE id::text = %s", task_of(finished, 0))
    assert finished.anomalies() == ({Anomaly.HALF_APPLIED}, {Anomaly.HALF_APPLIED})


def test_it_detects_a_lost_update(finished: Finished) -> None:
    """The task contains an older write than the last acknowledged one."""
    task = task_of(finished, 0)
    earlier = content(marker(finished.load.users[0].name, 1_000_001))
    finished.sql(
        "UPDATE tasks SET title = %s, description = %s, tags = %s, completed = %s, priority = %s,"
        " completed_at = NULL WHERE id::text = %s",
        *(earlier[name] for name in ("title", "description", "tags", "completed", "priority")),
        task,
    )
    assert finished.anomalies() == ({Anomaly.LOST}, {Anomaly.LOST})


def task_of(finished: Finished, number: int) -> str:
    """A task that the user has at the end."""
    return str(finished.api[finished.load.users[number].name][0]["id"])
