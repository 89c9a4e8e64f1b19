"""Targets spelled to be one thing to a proxy and another to a router (RFC 3986; RFC 9112, section 3.2)."""

import pytest

from tests.hostile.raw_http import (
    Target,
    content_length,
    new_token,
    post_task,
    request_with_id,
    statuses_and_ids,
)
from tests.support import TASKS, assert_problem

TASK = "{task}"

# Path and the status that the owner of the task gets.
SPELLINGS = {
    "parent": ("/api/tasks/../tasks", 404),
    "parent at the end": ("/api/tasks/..", 422),
    "self": ("/api/./tasks", 404),
    "self at the end": ("/api/tasks/.", 422),
    "parent of a prefix": ("/health/live/../../api/tasks", 404),
    "encoded parent": ("/api/tasks/%2e%2e/tasks", 404),
    "half-encoded parent": ("/api/tasks/.%2e", 422),
    "parent of a task": (f"/api/tasks/{TASK}/..", 404),
    "trailing slash": ("/api/tasks/", 404),
    "slash after a task": (f"/api/tasks/{TASK}/", 404),
    "double slash": ("//api/tasks", 404),
    "inner double slash": ("/api//tasks", 404),
    "slash twice before a task": (f"/api/tasks//{TASK}", 404),
    "upper case": ("/API/TASKS", 404),
    "backslash": ("/api\\tasks", 404),
    "encoded backslash": ("/api%5Ctasks", 404),
    "parent with a backslash": ("/api/tasks/..\\tasks", 422),
    "doubly encoded slash": (f"/api/tasks%252F{TASK}", 404),
    "doubly encoded parent": ("/api/tasks/%252e%252e", 422),
    "overlong slash": (f"/api/tasks%C0%AF{TASK}", 404),
    "overlong parent": ("/api/tasks/%C0%AE%C0%AE", 422),
    "encoded NUL": ("/api/tasks%00", 404),
    "encoded NUL after a task": (f"/api/tasks/{TASK}%00", 422),
    "encoded line feed": (f"/api/tasks/{TASK}%0A", 422),
    "encoded space": (f"/api/tasks/{TASK}%20", 422),
    "surrogate": ("/api/tasks/%ED%A0%80", 422),
    "malformed escape": ("/api/tasks/%zz", 422),
    "unfinished escape": ("/api/tasks/%", 422),
    "full-width digits": ("/api/tasks/%EF%BC%91", 422),
    "matrix parameter": ("/api/tasks;id=1", 404),
    "matrix parameter of a task": (f"/api/tasks/{TASK};id=1", 422),
    "extension": (f"/api/tasks/{TASK}.json", 422),
    "fragment": ("/api/tasks#x", 404),
    "encoded question mark": ("/api/tasks%3Flimit=1", 404),
    "braces": (f"/api/tasks/{{{TASK}}}", 422),
    "a list of tasks": (f"/api/tasks/{TASK},{TASK}", 422),
    "absolute form": ("http://evil.example/nowhere", 404),
    "absolute form with credentials": ("http://user:secret@tasks.example/nowhere", 404),
    "another scheme": ("file:///etc/passwd", 404),
    "two question marks": ("/api/tasks?limit=1?limit=2", 422),
    "semicolon in the query": ("/api/tasks?limit=1;limit=2", 422),
    "NUL in the query": ("/api/tasks?limit=1%00", 422),
    "array in the query": ("/api/tasks?limit[]=1", 422),
    "parameter twice": ("/api/tasks?limit=1&limit=1", 422),
    "parameter twice, once encoded": ("/api/tasks?limit=1&%6Cimit=1", 422),
    "long": (f"/{'a' * 4000}", 404),
    "deep": (f"{'/a' * 2000}", 404),
    "long id": (f"/api/tasks/{'a' * 4000}", 422),
    "many escapes": (f"/api/tasks/{'%41' * 1300}", 422),
}

KINDS = {404: "not-found", 422: "invalid-request"}

# Paths that might reach a task.
REFERENCES = {
    "plain": f"/api/tasks/{TASK}",
    "encoded slash": f"/api/tasks%2F{TASK}",
    "all encoded": f"/%61%70%69/%74asks/{TASK}",
    "parent": f"/api/tasks/x/../{TASK}",
    "self": f"/api/tasks/./{TASK}",
    "double slash": f"/api/tasks//{TASK}",
    "matrix parameter": f"/api/tasks;/{TASK}",
    "absolute form": f"http://tasks.example/api/tasks/{TASK}",
    "absolute form of another host": f"http://evil.example/api/tasks/{TASK}",
    "fragment": f"/api/tasks/{TASK}#",
    "query": f"/api/tasks/{TASK}?",
    "user in the query": f"/api/tasks/{TASK}?user_id=",
}


@pytest.fixture(scope="module")
def owner(target: Target) -> str:
    """The token of a user with one task."""
    return new_token("owner")


@pytest.fixture(scope="module")
def task(target: Target, owner: str) -> str:
    body = b'{"title": "the task of another"}'
    return str(target.send(post_task("new", owner, content_length(body), body=body)).json()["id"])


def get(name: str, path: str, token: str | None, method: str = "GET") -> bytes:
    authorization = [f"Authorization: Bearer {token}"] if token else []
    return request_with_id(name, f"{method} {path} HTTP/1.1", *authorization)


@pytest.mark.parametrize(("path", "status"), SPELLINGS.values(), ids=SPELLINGS.keys())
def test_paths_are_matched_as_spelled(target: Target, owner: str, task: str, path: str, status: int) -> None:
    """Dot segments are not resolved, and nothing is decoded twice or repeated in the answer."""
    answer = target.send(get("first", path.replace(TASK, task), owner))
    assert_problem(answer, status, KINDS[status])
    assert answer.headers["x-request-id"] == "first"
    assert task not in answer.text


@pytest.mark.parametrize("path", REFERENCES.values(), ids=REFERENCES.keys())
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_no_path_spelling_reaches_another_users_task(
    target: Target, task: str, path: str, method: str
) -> None:
    answer = target.send(get("first", path.replace(TASK, task), new_token("stranger"), method))
    assert answer.status_code in KINDS
    assert_problem(answer, answer.status_code, KINDS[answer.status_code])


@pytest.mark.parametrize("path", REFERENCES.values(), ids=REFERENCES.keys())
def test_every_spelling_needs_a_token(target: Target, task: str, path: str) -> None:
    answer = target.send(get("first", path.replace(TASK, task), None))
    kind = {401: "unauthorized", 404: "not-found"}[answer.status_code]
    assert_problem(answer, answer.status_code, kind)


@pytest.mark.parametrize(
    "name", ["%2e%2e/settings.py", "..%2fsettings.py", "__class__", "not-found%00", "{name}"]
)
def test_a_problem_type_is_looked_up_by_its_exact_name(target: Target, name: str) -> None:
    assert_problem(target.send(request_with_id("first", f"GET /problems/{name} HTTP/1.1")), 404, "not-found")


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "PROPFIND", "MERGE|X", "A" * 20])
def test_an_unknown_method_gets_405(target: Target, owner: str, method: str) -> None:
    answer = target.send(get("first", TASKS, owner, method))
    assert_problem(answer, 405, "method-not-allowed")


@pytest.mark.parametrize("header", ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"])
def test_no_header_changes_the_method(target: Target, owner: str, task: str, header: str) -> None:
    path = f"/api/tasks/{task}"
    message = request_with_id(
        "first", f"GET {path} HTTP/1.1", f"Authorization: Bearer {owner}", f"{header}: DELETE"
    )
    assert target.send(message).status_code == 200
    assert target.send(get("again", path, owner)).status_code == 200


@pytest.mark.parametrize("header", ["X-Original-URL", "X-Rewrite-URL", "X-Forwarded-Prefix", "X-Script-Name"])
def test_no_header_changes_the_path(target: Target, header: str) -> None:
    answer = target.send(request_with_id("first", "GET /api/tasks HTTP/1.1", f"{header}: /health/live"))
    assert_problem(answer, 401, "unauthorized")


@pytest.mark.parametrize("size", [4094, 4095, 100_000])
@pytest.mark.spec("http.headers-limit")
def test_a_request_line_is_bounded(target: Target, size: int) -> None:
    """gunicorn's `limit_request_line`, on both sides of it."""
    line = f"GET /{'a' * (size - len('GET / HTTP/1.1'))} HTTP/1.1"
    answers = target.exchange(request_with_id("first", line))
    assert statuses_and_ids(answers) == ([(404, "first"), (200, "last")] if size <= 4094 else [(414, None)])
