"""POST /api/tasks"""

import uuid

import pytest

from tests.factories import full_task, new_task
from tests.spec_tables import task_defaults
from tests.support import Caller, error_locations, ok


@pytest.mark.spec("tasks.create.created")
def test_it_answers_with_the_task_and_its_location(owner: Caller) -> None:
    response = owner.post(full_task())
    task = ok(response, 201)
    assert response.headers["location"] == f"/api/tasks/{task['id']}"
    assert owner.get(response.headers["location"]).json() == task


@pytest.mark.spec("tasks.create.defaults", "task.version", "task.timestamps")
def test_omitted_fields_take_their_defaults(owner: Caller) -> None:
    task = owner.create(title="Water the plants")
    assert task.pop("created_at") == task.pop("updated_at")
    assert task.pop("id")
    assert task == {
        "user_id": owner.user_id,
        "title": "Water the plants",
        **task_defaults(),
        "completed_at": None,
        "version": 1,
        "deleted_at": None,
    }


def test_every_field_is_stored(owner: Caller) -> None:
    body = full_task()
    task = owner.read(ok(owner.post(body), 201)["id"])
    assert {name: task[name] for name in body} == {**body, "due_at": "2030-05-17T06:00:00.250000Z"}


@pytest.mark.spec("tasks.create.title-required")
def test_it_needs_a_title(owner: Caller) -> None:
    assert error_locations(owner.post({})) == {"/title"}
    assert owner.ids() == []


@pytest.mark.spec("tasks.create.twice")
def test_the_same_body_twice_creates_two_tasks(owner: Caller) -> None:
    body = new_task()
    first, second = ok(owner.post(body), 201), ok(owner.post(body), 201)
    assert owner.ids() == [second["id"], first["id"]]


@pytest.mark.spec("task.id")
def test_ids_are_uuids_of_version_7(owner: Caller) -> None:
    created = uuid.UUID(owner.create()["id"])
    assert created.version == 7
    assert created.variant == uuid.RFC_4122


@pytest.mark.spec("task.owner", "tasks.isolation.writes")
@pytest.mark.parametrize("name", ["user_id", "version", "created_at", "deleted_at", "completed_at"])
def test_it_rejects_read_only_fields(owner: Caller, stranger: Caller, name: str) -> None:
    response = owner.post({**new_task(), name: stranger.user_id})
    assert error_locations(response) == {""}
    assert owner.ids() == stranger.ids() == []
