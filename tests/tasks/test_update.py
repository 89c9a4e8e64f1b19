"""PATCH /api/tasks/{task_id}"""

import json
from itertools import combinations
from typing import Any

import pytest

from tests.factories import full_task, task_patch
from tests.support import TASKS, Caller, assert_problem, ok

CHANGES: dict[str, Any] = {
    "title": "changed",
    "description": None,
    "completed": False,
    "priority": "low",
    "due_at": None,
    "tags": [],
}


@pytest.mark.spec("tasks.update.merge", "task.version")
@pytest.mark.parametrize("names", [names for size in range(1, 7) for names in combinations(CHANGES, size)])
def test_only_the_given_fields_change(owner: Caller, names: tuple[str, ...]) -> None:
    task = ok(owner.post(full_task()), 201)
    changes = {name: CHANGES[name] for name in names}
    changed = ok(owner.patch(task["id"], task_patch(**changes)))
    expected = {**task, **changes, "version": 2, "updated_at": changed["updated_at"]}
    if "completed" in names:
        expected["completed_at"] = None
    assert changed == expected
    assert changed["updated_at"] > task["updated_at"]
    assert owner.read(task["id"]) == changed


@pytest.mark.spec("tasks.update.merge")
@pytest.mark.parametrize("name", ["description", "due_at"])
def test_null_clears_a_field_and_omission_keeps_it(owner: Caller, name: str) -> None:
    task = ok(owner.post(full_task()), 201)
    assert ok(owner.patch(task["id"], {"title": "x"}))[name] == task[name] is not None
    assert ok(owner.patch(task["id"], {name: None}))[name] is None


@pytest.mark.spec("tasks.update.media-types")
@pytest.mark.parametrize(
    "media_type",
    ["application/json", "application/merge-patch+json", "Application/Merge-Patch+JSON; charset=UTF-8"],
)
def test_it_takes_both_media_types(owner: Caller, media_type: str) -> None:
    task = owner.create()
    headers = {"Content-Type": media_type}
    response = owner.request(
        "PATCH", f"{TASKS}/{task['id']}", content=json.dumps({"title": "x"}), headers=headers
    )
    assert ok(response)["title"] == "x"


@pytest.mark.spec("tasks.update.media-types")
@pytest.mark.parametrize("media_type", ["text/plain", "application/json-patch+json", "application/*"])
def test_it_takes_no_other_media_type(owner: Caller, media_type: str) -> None:
    task = owner.create()
    headers = {"Content-Type": media_type}
    response = owner.request("PATCH", f"{TASKS}/{task['id']}", content=b'{"title": "x"}', headers=headers)
    assert_problem(response, 415, "unsupported-media-type")
    assert owner.read(task["id"]) == task


@pytest.mark.spec("tasks.update.empty")
def test_an_empty_patch_changes_nothing(owner: Caller) -> None:
    task = ok(owner.post(full_task()), 201)
    assert ok(owner.patch(task["id"], {})) == task == owner.read(task["id"])


@pytest.mark.spec("tasks.update.empty", "tasks.not-found")
def test_an_empty_patch_of_another_users_task_is_not_found(owner: Caller, stranger: Caller) -> None:
    assert_problem(stranger.patch(owner.create()["id"], {}), 404, "not-found")
