"""POST /api/tasks that can be repeated: with an ID of the client, or under an Idempotency-Key."""

import hashlib
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from httpx2 import Response

from tests.conftest import Serve
from tests.environment import Sql
from tests.factories import full_task, new_task
from tests.support import TASKS, Caller, assert_problem, client_as, error_locations, ok


def create(caller: Caller, body: Mapping[str, Any], key: str | None) -> Response:
    return caller.post(dict(body), headers={} if key is None else {"Idempotency-Key": key})


def new_key() -> str:
    return str(uuid.uuid4())


def comparable(response: Response) -> tuple[object, ...]:
    names = ("location", "etag", "content-type")
    return response.status_code, response.content, [response.headers[name] for name in names]


def feed(sql: Sql, caller: Caller) -> list[tuple[Any, ...]]:
    return sql("SELECT seq, live_tasks FROM feeds WHERE user_id = %s", caller.user_id)


@pytest.mark.spec("tasks.create.key")
@pytest.mark.parametrize("body", [new_task(), full_task(), full_task(completed=False), full_task(tags=[])])
def test_a_repeated_request_has_the_same_response_and_no_effect(
    owner: Caller, sql: Sql, body: dict[str, Any]
) -> None:
    key = new_key()
    first = create(owner, body, key)
    ok(first, 201)
    assert "idempotency-replayed" not in first.headers
    before = feed(sql, owner)
    again = create(owner, body, key)
    assert comparable(again) == comparable(first)
    assert again.headers["idempotency-replayed"] == "true"
    assert feed(sql, owner) == before
    assert owner.ids() == [first.json()["id"]]


@pytest.mark.spec("tasks.create.key")
@pytest.mark.parametrize("change", ["changed", "deleted"])
def test_the_response_is_the_first_one_whatever_has_happened_since(owner: Caller, change: str) -> None:
    key, body = new_key(), full_task()
    first = create(owner, body, key)
    task = first.json()["id"]
    ok(owner.patch(task, {"title": "changed", "completed": False}))
    if change == "deleted":
        owner.delete(task)
    assert comparable(create(owner, body, key)) == comparable(first)
    assert len(owner.ids()) + len(owner.ids("?deleted=true")) == 1


@pytest.mark.spec("tasks.create.key")
def test_different_notations_of_a_body_are_the_same_body(owner: Caller) -> None:
    key = new_key()
    first = create(owner, {"title": "x", "due_at": "2030-01-01T01:00:00+01:00"}, key)
    again = create(owner, {"due_at": "2030-01-01T00:00:00.000Z", "title": " x ", "tags": []}, key)
    assert comparable(again) == comparable(first)


@pytest.mark.spec("tasks.create.key.body")
def test_defaults_are_no_part_of_what_is_compared(owner: Caller, sql: Sql) -> None:
    """A later version may add a field: the same body must still be the same to it."""
    ok(create(owner, {"title": "x", "completed": False, "due_at": None}, new_key()), 201)
    [[stored]] = sql("SELECT fingerprint FROM idempotency_keys WHERE user_id = %s", owner.user_id)
    assert bytes(stored) == hashlib.blake2b(b'{"title": "x"}', digest_size=16).digest()


@pytest.mark.spec("tasks.create.key.body")
@pytest.mark.parametrize(
    "change", [{"title": "y"}, {"completed": True}, {"tags": ["a"]}, {"id": str(uuid.uuid4())}]
)
def test_another_body_under_the_same_key_is_refused(
    owner: Caller, sql: Sql, change: dict[str, object]
) -> None:
    key = new_key()
    task = ok(create(owner, {"title": "x"}, key), 201)
    before = feed(sql, owner)
    assert_problem(create(owner, {"title": "x", **change}, key), 409, "idempotency-key-reused")
    assert (feed(sql, owner), owner.ids()) == (before, [task["id"]])


@pytest.mark.spec("tasks.create.key", "tasks.isolation")
def test_a_key_of_another_user_does_not_matter(owner: Caller, stranger: Caller) -> None:
    key = new_key()
    mine, theirs = (ok(create(caller, {"title": "x"}, key), 201) for caller in (owner, stranger))
    assert (mine["user_id"], theirs["user_id"]) == (owner.user_id, stranger.user_id)
    assert mine["id"] != theirs["id"]
    assert_problem(create(stranger, {"title": "y"}, key), 409, "idempotency-key-reused")


@pytest.mark.spec("tasks.create.key")
def test_a_key_is_forgotten_after_24_hours(owner: Caller, sql: Sql) -> None:
    key = new_key()
    first = ok(create(owner, {"title": "x"}, key), 201)
    age = "UPDATE idempotency_keys SET created_at = created_at - %s::interval WHERE user_id = %s"
    sql(age, "23 hours 59 minutes", owner.user_id)
    assert create(owner, {"title": "x"}, key).json()["id"] == first["id"]
    sql(age, "1 minute", owner.user_id)
    second = ok(create(owner, {"title": "y"}, key), 201)
    assert second["id"] != first["id"]
    assert ok(create(owner, {"title": "y"}, key), 201)["id"] == second["id"]


@pytest.mark.spec("tasks.create.key.bound", "schema.keys")
def test_a_later_key_replaces_an_old_one(owner: Caller, sql: Sql) -> None:
    keys = [new_key() for _ in range(3)]
    first = ok(create(owner, {"title": "x"}, keys[0]), 201)
    sql("UPDATE feeds SET seq = seq + 9998 WHERE user_id = %s", owner.user_id)
    ok(create(owner, {"title": "y"}, keys[1]), 201)
    assert create(owner, {"title": "x"}, keys[0]).json()["id"] == first["id"]
    ok(create(owner, {"title": "z"}, keys[2]), 201)
    assert sql("SELECT count(*) FROM idempotency_keys WHERE user_id = %s", owner.user_id) == [(2,)]
    assert ok(create(owner, {"title": "x"}, keys[0]), 201)["id"] != first["id"]


@pytest.mark.spec("tasks.create.key.bound")
def test_the_key_itself_is_not_stored(owner: Caller, sql: Sql) -> None:
    key = new_key()
    ok(create(owner, {"title": "x"}, key), 201)
    [[stored]] = sql("SELECT idempotency_keys::text FROM idempotency_keys WHERE user_id = %s", owner.user_id)
    assert key not in stored
    assert key.encode().hex() not in stored


@pytest.mark.spec("tasks.create.key", "tasks.concurrent")
def test_simultaneous_requests_create_one_task(owner: Caller) -> None:
    key = new_key()
    with ThreadPoolExecutor(12) as threads:
        responses = [*threads.map(lambda _: create(owner, {"title": "x"}, key), range(12))]
    assert {(response.status_code, response.content) for response in responses} == {
        (201, responses[0].content)
    }
    assert (
        sorted("idempotency-replayed" in response.headers for response in responses) == [False] + [True] * 11
    )
    assert len(owner.ids()) == 1


@pytest.mark.spec("tasks.create.key.form")
def test_quotation_marks_are_not_a_part_of_the_key(owner: Caller) -> None:
    key = new_key()
    first = ok(create(owner, {"title": "x"}, key), 201)
    assert create(owner, {"title": "x"}, f'"{key}"').json()["id"] == first["id"]
    for other in (f'"{key}', f'{key}"', key.upper() + "x"):
        assert ok(create(owner, {"title": "x"}, other), 201)["id"] != first["id"]


@pytest.mark.spec("tasks.create.key.form")
@pytest.mark.parametrize(
    "key", ["!", "~" * 255, '"', '""', "'; DROP TABLE tasks; --".replace(" ", "_"), "%s%(x)s"]
)
def test_any_visible_ascii_is_a_key(owner: Caller, key: str) -> None:
    first = ok(create(owner, {"title": "x"}, key), 201)
    assert create(owner, {"title": "x"}, key).json()["id"] == first["id"]


@pytest.mark.spec("tasks.create.key.form")
@pytest.mark.parametrize("key", ["", "x" * 256, "a b", "a\tb", b"\xe9", b"\x7f", "x" * 8_000])
def test_an_invalid_key_is_refused(owner: Caller, key: str | bytes) -> None:
    response = owner.post(new_task(), headers={"Idempotency-Key": key})
    assert_problem(response, 400, "invalid-idempotency-key")
    assert owner.ids() == []


@pytest.mark.spec("tasks.create.key.form")
def test_a_second_key_is_refused(owner: Caller) -> None:
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "a"), ("Authorization", f"Bearer {owner.token}")]
    response = owner.client.post(TASKS, json=new_task(), headers=headers)
    assert_problem(response, 400, "invalid-idempotency-key")


@pytest.mark.spec("tasks.create.id", "task.id")
@pytest.mark.parametrize("form", [str, lambda each: str(each).upper()])
def test_the_client_may_choose_the_id(owner: Caller, form: Any) -> None:
    task_id = uuid.uuid4()
    response = owner.post(full_task(id=form(task_id)))
    task = ok(response, 201)
    assert task["id"] == str(task_id)
    assert response.headers["location"] == f"{TASKS}/{task_id}"
    assert owner.read(str(task_id)) == task


@pytest.mark.spec("tasks.create.id")
@pytest.mark.parametrize("key", [None, "first", "second"])
def test_the_same_task_again_is_returned(owner: Caller, sql: Sql, key: str | None) -> None:
    body = full_task(id=str(uuid.uuid4()))
    first = create(owner, body, "first" if key == "second" else None)
    before = feed(sql, owner)
    again = create(owner, body, key)
    assert ok(again) == first.json()
    assert [again.headers[name] for name in ("etag", "location")] == [
        first.headers[name] for name in ("etag", "location")
    ]
    assert feed(sql, owner) == before


@pytest.mark.spec("tasks.create.id")
@pytest.mark.parametrize("change", [{"title": "y"}, {"tags": ["b"]}, {"due_at": None}, None])
def test_another_or_deleted_task_with_the_id_is_a_conflict(
    owner: Caller, sql: Sql, change: dict[str, object] | None
) -> None:
    body = full_task(id=str(uuid.uuid4()))
    ok(owner.post(body), 201)
    if change is None:
        owner.delete(body["id"])
    else:
        ok(owner.patch(body["id"], change))
    before = feed(sql, owner)
    response = owner.post(body)
    assert_problem(response, 409, "task-exists")
    assert feed(sql, owner) == before
    current = {"If-Match": response.headers["etag"]}
    ok(owner.request("POST", f"{TASKS}/{body['id']}/restore", headers=current))


@pytest.mark.spec("tasks.create.id", "tasks.isolation")
def test_two_users_may_have_a_task_with_the_same_id(owner: Caller, stranger: Caller) -> None:
    task_id = str(uuid.uuid4())
    mine = ok(owner.post(new_task(id=task_id, title="mine")), 201)
    theirs = ok(stranger.post(new_task(id=task_id, title="theirs")), 201)
    assert owner.read(task_id) == mine
    ok(stranger.patch(task_id, {"completed": True}))
    stranger.delete(task_id)
    assert owner.read(task_id) == mine
    assert theirs["user_id"] == stranger.user_id


@pytest.mark.spec("tasks.create.id")
@pytest.mark.parametrize("value", [None, "", "x", 7, [], "0" * 32, "{" + str(uuid.UUID(int=7)) + "}", "\0"])
def test_an_invalid_id_is_refused(owner: Caller, value: object) -> None:
    assert error_locations(owner.post(new_task(id=value))) == {"/id"}


@pytest.mark.spec("tasks.create.id")
def test_put_and_patch_do_not_take_an_id(owner: Caller) -> None:
    task = owner.create()
    for response in (
        owner.put(task["id"], new_task(id=task["id"])),
        owner.request("PATCH", f"{TASKS}/{task['id']}", json={"id": task["id"]}),
    ):
        assert_problem(response, 422, "invalid-request")


@pytest.mark.spec("tasks.create.quota")
def test_the_quota_holds_for_these_creates_too(serve: Serve) -> None:
    caller = client_as(serve(max_tasks_per_user=1), f"full-{uuid.uuid4()}")
    body, key = {"title": "x"}, new_key()
    first = ok(create(caller, body, key), 201)
    assert_problem(create(caller, body, new_key()), 409, "quota-reached")
    assert_problem(caller.post(new_task(id=str(uuid.uuid4()))), 409, "quota-reached")
    assert create(caller, body, key).json() == first
