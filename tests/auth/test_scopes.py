"""A token that is limited by its scope claim."""

import uuid

import pytest
from httpx2 import Response
from starlette.testclient import TestClient

from auth.bearer import READ, WRITE
from tests.operations import OPERATIONS, Operation, each
from tests.support import assert_problem, assert_unauthorized, client_as

WRITES = [each for each in OPERATIONS if each.scope == WRITE]
READS = [each for each in OPERATIONS if each.scope == READ]


def assert_insufficient(response: Response, scope: str) -> None:
    assert_problem(response, 403, "insufficient-scope")
    challenge = response.headers["www-authenticate"]
    assert challenge.startswith('Bearer error="insufficient_scope", ')
    assert challenge.endswith(f', scope="{scope}"')


@pytest.fixture
def user_id() -> str:
    return f"scoped-{uuid.uuid4()}"


@pytest.mark.spec("auth.scope.none")
@each()
def test_without_a_scope_everything_is_allowed(
    client: TestClient, user_id: str, operation: Operation
) -> None:
    caller = client_as(client, user_id)
    assert operation.send(caller, caller.create()["id"]).status_code == operation.status


@pytest.mark.spec("auth.scope.limits")
def test_the_read_scope_allows_only_reads(client: TestClient, user_id: str) -> None:
    task = client_as(client, user_id).create(completed=False)
    reader = client_as(client, user_id, scope="openid tasks:read")
    for operation in READS:
        assert operation.send(reader, task["id"]).status_code == operation.status
    for operation in WRITES:
        assert_insufficient(operation.send(reader, task["id"]), WRITE)
    assert reader.get().json() == [task]


@pytest.mark.spec("auth.scope.limits")
def test_the_write_scope_allows_only_writes(client: TestClient, user_id: str) -> None:
    writer = client_as(client, user_id, scope="tasks:write")
    for operation in READS:
        assert_insufficient(operation.send(writer), READ)
    for operation in WRITES:
        assert operation.send(writer, writer.create()["id"]).status_code == operation.status


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
    for operation in OPERATIONS:
        assert_insufficient(operation.send(caller, task), operation.scope)


@pytest.mark.spec("auth.scope.limits")
def test_both_scopes_allow_everything(client: TestClient, user_id: str) -> None:
    caller = client_as(client, user_id, scope="tasks:write tasks:read")
    task = caller.create()["id"]
    assert caller.ids() == [task]


@pytest.mark.spec("auth.scope.malformed")
@pytest.mark.parametrize("scope", [None, ["tasks:read"], 5, True, False, [], {"tasks": "read"}])
def test_it_rejects_a_scope_that_is_not_a_string(client: TestClient, user_id: str, scope: object) -> None:
    assert_unauthorized(client_as(client, user_id, scope=scope).get(), "The scope is not a string")
