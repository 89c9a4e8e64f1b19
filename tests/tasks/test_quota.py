"""The quota of tasks that are not deleted."""

import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conftest import Serve
from tests.environment import Sql
from tests.factories import new_task
from tests.support import Caller, assert_problem, client_as, ok

QUOTA = 3


@pytest.fixture
def full(serve: Serve) -> Caller:
    """A user with as many tasks as they may have."""
    caller = client_as(serve(max_tasks_per_user=QUOTA), f"full-{uuid.uuid4()}")
    for _ in range(QUOTA):
        caller.create()
    return caller


@pytest.mark.spec("tasks.create.quota", "schema.feed.position")
def test_a_task_beyond_the_quota_is_refused_and_takes_no_position(full: Caller, sql: Sql) -> None:
    feed = sql("SELECT * FROM feeds WHERE user_id = %s", full.user_id)
    assert_problem(full.post(new_task()), 409, "quota-reached")
    assert len(full.ids()) == QUOTA
    assert sql("SELECT * FROM feeds WHERE user_id = %s", full.user_id) == feed


@pytest.mark.spec("tasks.create.quota")
def test_other_operations_and_users_are_not_affected(full: Caller) -> None:
    [task, *_] = full.ids()
    assert ok(full.patch(task, {"title": "x"}))["title"] == "x"
    client_as(full.client, f"another-{uuid.uuid4()}").create()


@pytest.mark.spec("tasks.create.quota")
def test_a_deleted_task_makes_room_for_one(full: Caller) -> None:
    full.delete(full.ids()[0])
    full.create()
    assert_problem(full.post(new_task()), 409, "quota-reached")


@pytest.mark.spec("tasks.create.quota", "tasks.concurrent")
def test_racing_requests_do_not_exceed_the_quota(full: Caller) -> None:
    for task in full.ids():
        full.delete(task)
    with ThreadPoolExecutor(12) as threads:
        statuses = [*threads.map(lambda _: full.post(new_task()).status_code, range(12))]
    assert sorted(statuses) == [201] * QUOTA + [409] * (12 - QUOTA)
    assert len(full.ids()) == QUOTA
