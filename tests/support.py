"""Callers with real tokens, and assertions on responses."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from httpx2 import Client, Response

from problems import TYPES
from tests.factories import new_task
from tests.wording import check_wording
from tools.tokens import mint

SECRET = "a secret of the tests that is long enough"

TASKS = "/api/tasks"
ACCOUNT = "/api/account"

ORIGIN = "https://app.example.com"
"""The allowed CORS origin."""


@dataclass(frozen=True)
class Caller:
    """Sends requests with a user's token, or without one."""

    client: Client
    user_id: str
    token: str | None

    def request(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, **kwargs: Any
    ) -> Response:
        authorization = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        return self.client.request(method, path, headers={**authorization, **(headers or {})}, **kwargs)

    def get(self, path: str = TASKS, **kwargs: Any) -> Response:
        return self.request("GET", path, **kwargs)

    def post(self, body: object, **kwargs: Any) -> Response:
        return self.request("POST", TASKS, json=body, **kwargs)

    def put(self, task: str, body: object, **kwargs: Any) -> Response:
        return self.request("PUT", f"{TASKS}/{task}", json=body, **kwargs)

    def patch(self, task: str, body: object, **kwargs: Any) -> Response:
        return self.request("PATCH", f"{TASKS}/{task}", json=body, **kwargs)

    def delete(self, task: str, **kwargs: Any) -> Response:
        return self.request("DELETE", f"{TASKS}/{task}", **kwargs)

    def read(self, task: str) -> dict[str, Any]:
        return ok(self.get(f"{TASKS}/{task}"))

    def create(self, **fields: object) -> dict[str, Any]:
        """Create a task through the API."""
        return ok(self.post(new_task(**fields)), 201)

    def ids(self, query: str = "") -> list[str]:
        response = self.get(f"{TASKS}{query}")
        assert response.status_code == 200, response.text
        return [task["id"] for task in response.json()]


def client_as(client: Client, user_id: str, **claims: object) -> Caller:
    return Caller(client, user_id, mint(SECRET, user_id, **claims))


def ok(response: Response, status: int = 200) -> dict[str, Any]:
    assert response.status_code == status, response.text
    task: dict[str, Any] = response.json()
    return task


def assert_problem(response: Response, status: int, kind: str) -> dict[str, Any]:
    """Check a problem detail in full: media type, members, type, title and status."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert set(problem) - {"errors"} == {"type", "title", "status", "detail", "instance"}
    assert problem["type"] == f"/problems/{kind}"
    assert TYPES[kind].status == problem["status"] == status
    assert problem["instance"] == response.headers["x-request-id"]
    assert [*check_wording(problem)] == []
    assert "errors" in problem or kind not in {"invalid-request", "conflicting-parameters", "batch-failed"}
    for each in problem.get("errors", []):
        del each["detail"]
        assert ("type" in each) == (kind == "batch-failed")
        assert len(each.keys() & {"pointer", "parameter", "header"}) == 1
        assert each.keys() <= {"pointer", "parameter", "header", "type"}
    return problem


def error_locations(response: Response) -> set[str]:
    """The pointer, parameter or header of each error of a 422."""
    problem = assert_problem(response, 422, "invalid-request")
    return {location for each in problem["errors"] for location in each.values()}


def assert_unauthorized(response: Response, description: str | None) -> None:
    """A 401 with its challenge; `description` is None when there were no credentials."""
    assert_problem(response, 401, "unauthorized")
    challenge = response.headers["www-authenticate"]
    if description is None:
        assert challenge == "Bearer"
    else:
        assert challenge == f'Bearer error="invalid_token", error_description="{description}"'


def wait_until(condition: Callable[[], object], otherwise: str, *, seconds: float = 30) -> None:
    """Poll a condition for at most this time; fail with the message `otherwise`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.02)
