"""POST /api/tasks/{task_id}/restore"""

import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pytest
from httpx2 import Response

from tests.conftest import Serve
from tests.environment import Sql, clock
from tests.factories import full_task, new_task
from tests.support import TASKS, Caller, assert_problem, client_as, ok

WRITTEN_BY_RESTORE = {"version", "updated_at", "deleted_at"}


def restore(caller: Caller, task: str, tag: str | None = None) -> Response:
    headers = {} if tag is None else {"If-Match": tag}
    return caller.request("POST", f"{TASKS}/{task}/restore", headers=headers)


def deleted(caller: Caller, **fields: object) -> dict[str, object]:
    """A task as it was before it was deleted."""
    task = caller.create(**{**full_task(), **fields})
    caller.delete(str(task["id"]))
    return task


@pytest.mark.spec("tasks.restore.restored", "task.version")
def test_it_brings_a_deleted_task_back(owner: Caller, sql: Sql) -> None:
    task = deleted(owner, completed=True)
    before = clock(sql)
    response = restore(owner, str(task["id"]))
    restored = ok(response)
    assert (restored["version"], restored["deleted_at"]) == (2, None)
    assert before < datetime.fromisoformat(restored["updated_at"]) < clock(sql)
    kept = task.keys() - WRITTEN_BY_RESTORE
    assert {name: restored[name] for name in kept} == {name: task[name] for name in kept}
    assert owner.read(restored["id"]) == restored
    assert owner.ids() == [restored["id"]]
    assert owner.ids("?deleted=true") == []
    assert response.headers["etag"] == owner.get(f"{TASKS}/{restored['id']}").headers["etag"]


@pytest.mark.spec("tasks.restore.restored", "schema.feed.position", "schema.feed.count")
def test_it_takes_the_next_position_and_is_counted(owner: Caller, sql: Sql) -> None:
    task = str(deleted(owner)["id"])
    [[seq, live_tasks]] = sql("SELECT seq, live_tasks FROM feeds WHERE user_id = %s", owner.user_id)
    ok(restore(owner, task))
    assert sql("SELECT seq, live_tasks FROM feeds WHERE user_id = %s", owner.user_id) == [
        (seq + 1, live_tasks + 1)
    ]
    assert sql("SELECT seq FROM tasks WHERE id = %s", task) == [(seq + 1,)]


@pytest.mark.spec("tasks.restore.again")
def test_a_task_that_is_not_deleted_stays_as_it_is(owner: Caller, sql: Sql) -> None:
    task = owner.create()
    feed = sql("SELECT * FROM feeds WHERE user_id = %s", owner.user_id)
    for tag in (None, "*", '"1"'):
        assert ok(restore(owner, task["id"], tag)) == task
    assert sql("SELECT * FROM feeds WHERE user_id = %s", owner.user_id) == feed


@pytest.mark.spec("tasks.restore.again", "tasks.concurrent")
def test_racing_restores_have_the_effect_of_one(owner: Caller) -> None:
    task = str(deleted(owner)["id"])
    with ThreadPoolExecutor(8) as threads:
        answers = [*threads.map(lambda _: ok(restore(owner, task)), range(8))]
    assert {answer["version"] for answer in answers} == {2}


@pytest.mark.spec("http.if-match")
@pytest.mark.parametrize(
    ("tag", "status"), [('"1"', 200), ("*", 200), ('"7", "1"', 200), ('"2"', 412), ("", 412)]
)
def test_a_precondition_is_about_the_deleted_task(owner: Caller, tag: str, status: int) -> None:
    task = str(deleted(owner)["id"])
    response = restore(owner, task, tag)
    assert response.status_code == status, response.text
    assert bool(owner.ids()) == (status == 200)


@pytest.mark.spec("http.if-match")
def test_a_precondition_also_holds_for_a_task_that_is_not_deleted(owner: Caller) -> None:
    task = owner.create()["id"]
    response = restore(owner, task, '"2"')
    assert_problem(response, 412, "precondition-failed")
    assert response.headers["etag"] == owner.get(f"{TASKS}/{task}").headers["etag"]


@pytest.mark.spec("tasks.isolation", "tasks.not-found")
@pytest.mark.parametrize("tag", [None, "*", '"1"', '"2"'])
def test_a_deleted_task_of_somebody_else_does_not_exist(
    owner: Caller, stranger: Caller, tag: str | None
) -> None:
    task = str(deleted(owner)["id"])
    assert_problem(restore(stranger, task, tag), 404, "not-found")
    assert_problem(restore(owner, str(uuid.uuid4()), tag), 404, "not-found")
    assert owner.ids() == []


@pytest.mark.spec("tasks.restore.quota", "tasks.create.quota")
def test_a_restore_beyond_the_quota_is_refused(serve: Serve, sql: Sql) -> None:
    caller = client_as(serve(max_tasks_per_user=2), f"full-{uuid.uuid4()}")
    task, live = str(deleted(caller)["id"]), [caller.create()["id"] for _ in range(2)]
    feed = sql("SELECT * FROM feeds WHERE user_id = %s", caller.user_id)
    assert_problem(restore(caller, task), 409, "quota-reached")
    assert_problem(restore(caller, task, '"2"'), 412, "precondition-failed")
    assert sql("SELECT * FROM feeds WHERE user_id = %s", caller.user_id) == feed
    ok(restore(caller, live[0]))
    caller.delete(live[0])
    ok(restore(caller, task))
    assert_problem(caller.post(new_task()), 409, "quota-reached")


@pytest.mark.spec("http.preconditions.required")
def test_a_restore_can_require_a_tag(serve: Serve) -> None:
    caller = client_as(serve(require_if_match=True), f"strict-{uuid.uuid4()}")
    task = caller.create()["id"]
    caller.delete(task, headers={"If-Match": "*"})
    assert_problem(restore(caller, task), 428, "precondition-required")
    ok(restore(caller, task, '"1"'))
