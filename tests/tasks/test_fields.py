"""Validation of task fields, for create, replace and update."""

import json
from collections.abc import Callable
from datetime import datetime

import pytest
from httpx2 import Response

from tests.environment import Sql, clock
from tests.factories import full_task, new_task
from tests.spec_tables import task_fields
from tests.support import Caller, error_locations, ok

WHITE_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2000\u2005\u200a\u2028\u2029\u202f\u205f\u3000"
LONGEST_TITLE = "𝒯" * 200

Write = Callable[[Caller, dict[str, object]], Response]


def _create(caller: Caller, fields: dict[str, object]) -> Response:
    return caller.post({**new_task(), **fields})


def _replace(caller: Caller, fields: dict[str, object]) -> Response:
    return caller.put(caller.create()["id"], {**new_task(), **fields})


def _update(caller: Caller, fields: dict[str, object]) -> Response:
    return caller.patch(caller.create()["id"], fields)


@pytest.fixture(params=[_create, _replace, _update], ids=["create", "replace", "update"])
def write(request: pytest.FixtureRequest) -> Write:
    chosen: Write = request.param
    return chosen


def stored(write: Write, owner: Caller, name: str, value: object) -> object:
    response = write(owner, {name: value})
    assert response.is_success, response.text
    task = owner.read(response.json()["id"])
    assert task == response.json()
    return task[name]


@pytest.mark.spec("task.title", "task.characters")
@pytest.mark.parametrize(
    "title",
    ["x", LONGEST_TITLE, "a\tb\nc", "\u200bzero width", "\x1c", "'; DROP TABLE tasks; --", "%s %(x)s \\"],
)
def test_a_title_is_kept(owner: Caller, write: Write, title: str) -> None:
    assert stored(write, owner, "title", title) == title


@pytest.mark.spec("task.title")
def test_white_space_around_a_title_is_trimmed(owner: Caller, write: Write) -> None:
    assert stored(write, owner, "title", f"{WHITE_SPACE}{LONGEST_TITLE}{WHITE_SPACE}") == LONGEST_TITLE


@pytest.mark.spec("task.title")
@pytest.mark.parametrize("title", ["", WHITE_SPACE, LONGEST_TITLE + "x"])
def test_it_rejects_titles_of_invalid_length(owner: Caller, write: Write, title: str) -> None:
    assert error_locations(write(owner, {"title": title})) == {"/title"}


@pytest.mark.spec("task.description")
@pytest.mark.parametrize("description", ["", " x ", "é" * 5000, None])
def test_a_description_is_kept_as_sent(owner: Caller, write: Write, description: str | None) -> None:
    assert stored(write, owner, "description", description) == description


@pytest.mark.spec("task.description")
def test_it_rejects_a_description_that_is_too_long(owner: Caller, write: Write) -> None:
    assert error_locations(write(owner, {"description": "x" * 5001})) == {"/description"}


@pytest.mark.spec("task.priority")
@pytest.mark.parametrize("priority", ["low", "medium", "high"])
def test_a_priority_is_kept(owner: Caller, write: Write, priority: str) -> None:
    assert stored(write, owner, "priority", priority) == priority


@pytest.mark.spec("task.priority")
@pytest.mark.parametrize("priority", ["", "HIGH", "urgent", 1])
def test_it_rejects_unknown_priorities(owner: Caller, write: Write, priority: object) -> None:
    assert error_locations(write(owner, {"priority": priority})) == {"/priority"}


@pytest.mark.spec("task.due-at")
@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("2030-01-02T03:04:05Z", "2030-01-02T03:04:05Z"),
        ("2030-01-02t03:04:05.123456z", "2030-01-02T03:04:05.123456Z"),
        ("2030-01-02T03:04:05.123456789+05:30", "2030-01-01T21:34:05.123456Z"),
        ("1970-01-01T00:00:00Z", "1970-01-01T00:00:00Z"),
        ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999Z"),
        ("2024-02-29T00:00:00-00:00", "2024-02-29T00:00:00Z"),
    ],
)
def test_a_due_date_is_returned_in_utc(owner: Caller, write: Write, sent: str, kept: str) -> None:
    assert stored(write, owner, "due_at", sent) == kept


@pytest.mark.spec("task.due-at", "task.strict")
@pytest.mark.parametrize(
    "due_at",
    [
        "2030-01-02",
        "2030-01-02T03:04:05",
        "2030-01-02 03:04:05Z",
        "2030-01-02T03:04Z",
        "2030-01-02T24:00:00Z",
        "2030-01-02T03:04:60Z",
        "2023-02-29T00:00:00Z",
        "1969-12-31T23:59:59Z",
        "1970-01-01T00:00:00+00:01",
        "9999-12-31T23:59:59-14:00",
        "10000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+14:00",
        "２０３０-01-02T03:04:05Z",
        "2030-01-02T03:04:05Z\n",
        "1577836800",
        1577836800,
        0,
        1.5,
        True,
        [],
        {},
        "",
    ],
)
def test_it_rejects_invalid_due_dates(owner: Caller, write: Write, due_at: object) -> None:
    assert error_locations(write(owner, {"due_at": due_at})) == {"/due_at"}


@pytest.mark.spec("task.tags")
@pytest.mark.parametrize(
    "tags",
    [[], ["b", "a", "B", " a"], ["𝒯" * 50], [f"tag {i}" for i in range(20)], ['"', "{}", "\\", "NULL"]],
)
def test_tags_are_kept_in_their_order(owner: Caller, write: Write, tags: list[str]) -> None:
    assert stored(write, owner, "tags", tags) == tags


@pytest.mark.spec("task.tags")
@pytest.mark.parametrize(
    ("tags", "location"),
    [
        (["a", "a"], "/tags"),
        ([f"tag {i}" for i in range(21)], "/tags"),
        (["ok", ""], "/tags/1"),
        (["x" * 51], "/tags/0"),
        ([None], "/tags/0"),
        ([["a"]], "/tags/0"),
        ("a,b", "/tags"),
        ({"a": 1}, "/tags"),
    ],
)
def test_it_rejects_invalid_tags(owner: Caller, write: Write, tags: object, location: str) -> None:
    assert error_locations(write(owner, {"tags": tags})) == {location}


@pytest.mark.spec("task.strict")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("completed", "true"),
        ("completed", 1),
        ("completed", 0),
        ("title", 1),
        ("title", True),
        ("title", ["x"]),
        ("description", 1),
        ("priority", True),
    ],
)
def test_values_are_not_converted(owner: Caller, write: Write, name: str, value: object) -> None:
    assert error_locations(write(owner, {name: value})) == {f"/{name}"}


@pytest.mark.spec("task.null")
@pytest.mark.parametrize("name", ["title", "completed", "priority", "tags"])
def test_it_rejects_null_for_fields_that_are_not_nullable(owner: Caller, write: Write, name: str) -> None:
    assert error_locations(write(owner, {name: None})) == {f"/{name}"}


@pytest.mark.spec("task.unknown-fields", "problems.errors")
@pytest.mark.parametrize("name", ["done", "Title", "user_id", "version", "", "__class__"])
def test_it_rejects_unknown_fields_without_echoing_them(owner: Caller, write: Write, name: str) -> None:
    assert error_locations(write(owner, {name: "x", "title": "y"})) == {""}


@pytest.mark.spec("task.unknown-fields", "problems.errors")
def test_equal_errors_are_listed_once(owner: Caller, write: Write) -> None:
    response = write(owner, {"title": "x", "color": "red", "size": 1})
    assert error_locations(response) == {""}
    assert len(response.json()["errors"]) == 1


@pytest.mark.spec("task.text")
@pytest.mark.parametrize(("name", "value"), [("title", "a\0b"), ("description", "\0"), ("tags", ["a\0"])])
def test_text_with_a_nul_is_refused(owner: Caller, write: Write, name: str, value: object) -> None:
    location = "/tags/0" if name == "tags" else f"/{name}"
    assert error_locations(write(owner, {name: value})) == {location}


@pytest.mark.spec("task.completed-at")
def test_completed_at_follows_completed(owner: Caller) -> None:
    task = owner.create()
    done = ok(owner.patch(task["id"], {"completed": True}))
    assert done["completed_at"] >= task["created_at"]
    still = ok(owner.patch(task["id"], {"completed": True, "title": "still done"}))
    assert still["completed_at"] == done["completed_at"]
    whole = ok(owner.put(task["id"], new_task(completed=True)))
    assert whole["completed_at"] == done["completed_at"]
    assert ok(owner.patch(task["id"], {"completed": False}))["completed_at"] is None
    again = ok(owner.patch(task["id"], {"completed": True}))
    assert again["completed_at"] > done["completed_at"]
    assert ok(owner.put(task["id"], new_task()))["completed_at"] is None


@pytest.mark.spec("task.completed-at")
def test_a_task_can_be_created_completed(owner: Caller) -> None:
    task = owner.create(completed=True)
    assert task["completed_at"] == task["created_at"]


@pytest.mark.spec("task.fields")
def test_every_response_has_the_documented_fields(owner: Caller) -> None:
    task = ok(owner.post(full_task()), 201)
    answers = [
        task,
        owner.read(task["id"]),
        owner.get().json()[0],
        ok(owner.patch(task["id"], {"title": "x"})),
    ]
    assert [set(answer) for answer in answers] == [task_fields()] * 4


@pytest.mark.spec("task.timestamps", "task.completed-at")
def test_timestamps_are_the_time_of_the_change_in_utc(owner: Caller, sql: Sql) -> None:
    """The database's clock is read between the changes."""
    times = [clock(sql)]
    task = owner.create()
    times += [utc(task["created_at"]), clock(sql)]
    changed = ok(owner.patch(task["id"], {"title": "changed"}))
    times += [utc(changed["updated_at"]), clock(sql)]
    completed = ok(owner.put(task["id"], new_task(completed=True)))
    assert times[-1] < utc(completed["completed_at"])
    times += [utc(completed["updated_at"]), clock(sql)]
    assert utc(completed["completed_at"]) < times[-1]
    assert times == sorted(set(times))
    assert completed["created_at"] == changed["created_at"] == task["created_at"]


def utc(timestamp: str) -> datetime:
    assert timestamp.endswith("Z")
    return datetime.fromisoformat(timestamp)


@pytest.mark.spec("task.strict")
def test_it_rejects_huge_numbers(owner: Caller, write: Write) -> None:
    huge = json.loads("1" + "0" * 4000)
    assert error_locations(write(owner, {"title": huge})) == {"/title"}
    assert error_locations(write(owner, {"completed": 1e308})) == {"/completed"}
