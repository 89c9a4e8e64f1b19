"""Between users: what a stranger can see, change, or learn. Nothing."""

import uuid
from collections.abc import Callable

import pytest
from httpx2 import Response
from sqlalchemy import URL
from starlette.testclient import TestClient

from tests.conftest import Route, Serve
from tests.environment import Sql, libpq_url
from tests.factories import full_task, new_task
from tests.operations import ON_ONE_TASK
from tests.support import TASKS, Caller, client_as, ok

Attack = Callable[[Caller, str], Response]

ATTACKS: dict[str, Attack] = {
    **{each.name: each.send for each in ON_ONE_TASK},
    "empty update": lambda caller, task: caller.patch(task, {}),
    "invalid replace": lambda caller, task: caller.put(task, {"title": ""}),
    "invalid update": lambda caller, task: caller.patch(task, {"user_id": caller.user_id}),
}


def without_id(response: Response) -> tuple[int, bytes, dict[str, str]]:
    """All that can be seen of an answer, but for the request id."""
    request_id = response.headers["x-request-id"]
    headers = {name: value for name, value in response.headers.items() if name != "x-request-id"}
    return response.status_code, response.content.replace(request_id.encode(), b""), headers


@pytest.mark.spec("tasks.isolation")
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_another_users_task_is_indistinguishable_from_a_missing_one(
    owner: Caller, stranger: Caller, attack: Attack
) -> None:
    task = ok(owner.post(full_task()), 201)
    stranger.create()
    assert without_id(attack(stranger, task["id"])) == without_id(attack(stranger, str(uuid.uuid4())))
    assert owner.read(task["id"]) == task
    assert len(stranger.ids()) == 1


@pytest.mark.spec("tasks.isolation")
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_another_users_deleted_task_is_indistinguishable_from_a_missing_one(
    owner: Caller, stranger: Caller, attack: Attack
) -> None:
    task = owner.create()["id"]
    owner.delete(task)
    assert without_id(attack(stranger, task)) == without_id(attack(stranger, str(uuid.uuid4())))


@pytest.mark.spec("tasks.isolation.writes", "task.owner")
@pytest.mark.parametrize("header", ["X-User-Id", "X-User", "X-Forwarded-User", "Cookie", "Impersonate-User"])
def test_headers_cannot_set_the_user(owner: Caller, stranger: Caller, header: str) -> None:
    response = stranger.post(new_task(), headers={header: owner.user_id})
    assert ok(response, 201)["user_id"] == stranger.user_id
    assert owner.ids() == []


@pytest.mark.spec("auth.sub-opaque")
@pytest.mark.parametrize(
    "other",
    [
        "Ann",
        "ann ",
        " ann",
        "ann%",
        "an_",
        "ann\u0301",
        "ann'",
        "ann\\",
        "%",
        "*",
        "ann,bob",
        "ann\u200b",
        "ａｎｎ",
        "tasks_api",
        "ann;--",
    ],
)
def test_user_ids_are_never_interpreted(client: TestClient, other: str) -> None:
    mark = uuid.uuid4().hex
    ann, somebody = client_as(client, f"{mark}ann"), client_as(client, f"{mark}{other}")
    task = ann.create()
    theirs = somebody.create()
    assert theirs["user_id"] == somebody.user_id
    assert (ann.ids(), somebody.ids()) == ([task["id"]], [theirs["id"]])
    assert somebody.get(f"{TASKS}/{task['id']}").status_code == 404


@pytest.mark.spec("tasks.isolation")
def test_the_same_id_may_belong_to_two_users(owner: Caller, stranger: Caller, sql: object) -> None:
    task = owner.create(title="mine")["id"]
    assert callable(sql)
    sql("INSERT INTO tasks (user_id, id, title) VALUES (%s, %s, 'theirs')", stranger.user_id, task)
    assert owner.read(task)["title"] == "mine"
    assert stranger.read(task)["title"] == "theirs"
    assert stranger.delete(task).status_code == 204
    assert owner.read(task)["title"] == "mine"


@pytest.fixture
def unguarded(serve: Serve, migrated: URL, route: Route) -> TestClient:
    """The service on a database whose row security somebody switched off."""
    sql = Sql(migrated)
    sql("ALTER TABLE tasks DISABLE ROW LEVEL SECURITY")
    sql.close()
    return serve(database_url=libpq_url(route(migrated)))


@pytest.mark.spec("tasks.isolation", "tasks.list.own")
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_statements_keep_users_apart_without_row_security(unguarded: TestClient, attack: Attack) -> None:
    """Each wall stands by itself: this is the second, the filter in every statement."""
    owner, stranger = client_as(unguarded, "owner"), client_as(unguarded, "stranger")
    task, other = owner.create(), stranger.create()["id"]
    assert without_id(attack(stranger, task["id"])) == without_id(attack(stranger, str(uuid.uuid4())))
    assert owner.read(task["id"]) == task
    for query in ("", "?completed=false", "?limit=2"):
        assert stranger.ids(query) == [other]
