"""PUT /api/tasks/{task_id}"""

import uuid

import pytest

from tests.factories import Body, full_task, new_task
from tests.support import Caller, assert_problem, error_locations, ok


@pytest.mark.spec("tasks.replace.replaced", "task.version")
def test_every_field_is_replaced(owner: Caller) -> None:
    task = owner.create()
    body = full_task()
    replaced = ok(owner.put(task["id"], body))
    assert {name: replaced[name] for name in body} == {**body, "due_at": "2030-05-17T06:00:00.250000Z"}
    assert replaced["version"] == 2
    assert replaced["updated_at"] > task["updated_at"]
    assert {name: replaced[name] for name in ("id", "user_id", "created_at")} == {
        name: task[name] for name in ("id", "user_id", "created_at")
    }
    assert owner.read(task["id"]) == replaced


@pytest.mark.spec("tasks.replace.replaced")
def test_omitted_fields_are_reset_to_their_defaults(owner: Caller) -> None:
    task = ok(owner.post(full_task()), 201)
    replaced = ok(owner.put(task["id"], new_task(title="alone")))
    expected: Body = {
        "title": "alone",
        "description": None,
        "completed": False,
        "completed_at": None,
        "priority": "medium",
        "due_at": None,
        "tags": [],
    }
    assert {name: replaced[name] for name in expected} == expected


@pytest.mark.spec("tasks.replace.title-required")
def test_it_needs_a_title(owner: Caller) -> None:
    task = owner.create()
    assert error_locations(owner.put(task["id"], {"priority": "high"})) == {"/title"}
    assert owner.read(task["id"]) == task


@pytest.mark.spec("tasks.replace.never-creates")
def test_it_never_creates_a_task(owner: Caller) -> None:
    assert_problem(owner.put(str(uuid.uuid4()), new_task()), 404, "not-found")
    assert owner.ids() == []


@pytest.mark.spec("task.version")
def test_identical_values_still_increment_the_version(owner: Caller) -> None:
    task = owner.create(title="same")
    assert [ok(owner.put(task["id"], {"title": "same"}))["version"] for _ in range(3)] == [2, 3, 4]
