"""A token that is limited by its scope claim."""

import uuid

import pytest
from httpx2 import Response
from starlette.testclient import TestClient

from tests.factories import new_task
from tests.support import TASKS, Caller, assert_problem, assert_refused, client_as


def every_write(caller: Caller, task: str) -> list[Response]:
    return [
        caller.post(new_task()),
        caller.put(task, new_task()),
        caller.patch(task, {"title": "x"}),
        caller.delete(task),
    ]


def assert_insufficient(response: Response, scope: str) -> None:
    assert_problem(response, 403, "insufficient-scope")
    challenge = response.headers["www-authenticate"]
    assert challenge.startswith('Bearer error="insufficient_scope", ')
    assert challenge.endswith(f', scope="{scope}"')


@pytest.fixture
def user_id() -> str:
    return f"scoped-{uuid.uuid4()}"


@pytest.mark.spec("auth.scope.none")
def test_without_a_scope_everything_is_allowed(client: TestClient, user_id: str) -> None:
    caller = client_as(client, user_id)
    statuses = [response.status_code for response in every_write(caller, caller.create()["id"])]
    assert statuses == [201, 200, 200, 204]


@pytest.mark.spec("auth.scope.limits")
def test_a_token_for_reading_only_reads(client: TestClient, user_id: str) -> None:
    task = client_as(client, user_id).create()
    reader = client_as(client, user_id, scope="openid tasks:read")
    assert reader.get().json() == [task] == [reader.read(task["id"])]
    for response in every_write(reader, task["id"]):
        assert_insufficient(response, "tasks:write")
    assert reader.get().json() == [task]


@pytest.mark.spec("auth.scope.limits")
def test_a_token_for_writing_only_writes(client: TestClient, user_id: str) -> None:
    task = client_as(client, user_id).create()["id"]
    writer = client_as(client, user_id, scope="tasks:write")
    assert_insufficient(writer.get(), "tasks:read")
    assert_insufficient(writer.get(f"{TASKS}/{task}"), "tasks:read")
    assert [response.status_code for response in every_write(writer, task)] == [201, 200, 200, 204]


@pytest.mark.spec("auth.scope.limits")
@pytest.mark.parametrize(
    "scope",
    [
        "",
        " ",
        "openid",
        "tasks:*",
        "tasks",
        "TASKS:READ",
        "tasks:readwrite",
        "tasks:read,tasks:write",
        "\u00a0tasks:read",
        "tasks:read\ttasks:write",
    ],
)
def test_any_other_scope_allows_nothing(client: TestClient, user_id: str, scope: str) -> None:
    task = client_as(client, user_id).create()["id"]
    caller = client_as(client, user_id, scope=scope)
    assert_insufficient(caller.get(), "tasks:read")
    for response in every_write(caller, task):
        assert_insufficient(response, "tasks:write")


@pytest.mark.spec("auth.scope.limits")
def test_both_scopes_allow_everything(client: TestClient, user_id: str) -> None:
    caller = client_as(client, user_id, scope="tasks:write tasks:read")
    task = caller.create()["id"]
    assert caller.ids() == [task]


@pytest.mark.spec("auth.scope.malformed")
@pytest.mark.parametrize("scope", [None, ["tasks:read"], 5, True, False, [], {"tasks": "read"}])
def test_a_scope_that_is_no_string_is_refused(client: TestClient, user_id: str, scope: object) -> None:
    assert_refused(client_as(client, user_id, scope=scope).get(), "The scope is not a string")
