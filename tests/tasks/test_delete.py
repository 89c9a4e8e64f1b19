"""DELETE /api/tasks/{task_id}"""

import pytest

from tests.environment import Sql, clock
from tests.factories import new_task
from tests.support import TASKS, Caller, assert_problem


@pytest.mark.spec("tasks.delete.deleted")
def test_it_answers_without_a_body(owner: Caller) -> None:
    response = owner.delete(owner.create()["id"])
    assert (response.status_code, response.content) == (204, b"")
    assert "content-type" not in response.headers


@pytest.mark.spec("tasks.delete.gone")
def test_the_task_is_gone_from_every_operation(owner: Caller) -> None:
    kept, task = owner.create(completed=True)["id"], owner.create(completed=True)["id"]
    owner.delete(task)
    assert owner.ids() == owner.ids("?completed=true") == [kept]
    assert owner.ids("?completed=false") == []
    for response in (
        owner.get(f"{TASKS}/{task}"),
        owner.put(task, new_task()),
        owner.patch(task, {"title": "x"}),
        owner.patch(task, {}),
        owner.delete(task),
    ):
        assert_problem(response, 404, "not-found")


@pytest.mark.spec("tasks.delete.soft")
def test_the_row_is_kept(owner: Caller, sql: Sql) -> None:
    task = owner.create(title="kept")["id"]
    before = clock(sql)
    owner.delete(task)
    [[title, deleted_at]] = sql("SELECT title, deleted_at FROM tasks WHERE id = %s", task)
    assert title == "kept"
    assert before < deleted_at < clock(sql)
