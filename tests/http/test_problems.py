"""Problem details for all kinds of errors."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from typing import Annotated, Any

import pytest
from alembic import command
from fastapi import Header, HTTPException
from pydantic import BaseModel
from sqlalchemy import URL
from starlette.testclient import TestClient

import problems
from main import create_app
from observability.logs import JsonFormatter
from tests.conftest import MakeSettings, Route, Serve
from tests.environment import FAIL_WITH_TITLE, Sql, alembic, libpq_url, new_database
from tests.operations import ID, OPERATIONS, methods_of
from tests.spec_tables import sqlstates
from tests.support import SECRET, TASKS, Caller, assert_problem, client_as, ok


@pytest.mark.spec("problems.unknown-path", "problems.media-type", "problems.members")
@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/api",
        "/api/task",
        f"{TASKS}/",
        f"{TASKS}/x/y",
        "/API/TASKS",
        "/docs/",
        "/redoc",
        "//api/tasks",
        "/api/tasks/../tasks/x/y",
        "/%00",
        "/%ff",
        "/health",
        "/problems/",
        "/favicon.ico",
        "/.env",
    ],
)
def test_an_unknown_path_is_not_found(owner: Caller, path: str) -> None:
    assert_problem(owner.client.get(path, follow_redirects=False), 404, "not-found")
    assert_problem(owner.client.post(path, follow_redirects=False), 404, "not-found")


METHODS_OF_PATHS = {
    **{each.path.format(task_id=ID): methods_of(each.path) for each in OPERATIONS},
    "/health/live": ["GET", "HEAD"],
    "/problems/not-found": ["GET", "HEAD"],
    "/openapi.json": ["GET", "HEAD"],
    "/docs": ["GET", "HEAD"],
}
OTHER_METHODS = ["OPTIONS", "TRACE", "CONNECT", "DELETE", "PUT", "POST", "QUERY", "X"]


@pytest.mark.spec("problems.method")
@pytest.mark.parametrize(
    ("method", "path"),
    [
        (method, path)
        for path, allowed in METHODS_OF_PATHS.items()
        for method in OTHER_METHODS
        if method not in allowed
    ],
)
def test_another_method_is_not_allowed(anonymous: Caller, method: str, path: str) -> None:
    response = anonymous.request(method, path)
    assert_problem(response, 405, "method-not-allowed")
    assert response.headers["allow"] == ", ".join(METHODS_OF_PATHS[path])


@pytest.mark.spec("http.head")
@pytest.mark.parametrize(
    "path", [TASKS, f"{TASKS}?limit=0", "/health/live", "/openapi.json", "/docs", "/nowhere"]
)
def test_head_is_get_without_the_body(owner: Caller, path: str) -> None:
    headers = {"X-Request-ID": "same"}
    head, get = (owner.request(method, path, headers=headers) for method in ("HEAD", "GET"))
    assert (head.status_code, head.content) == (get.status_code, b"")
    for answer in (head, get):
        answer.headers.pop("server-timing", None)
    assert head.headers == get.headers


@pytest.mark.spec("http.head", "auth.bearer")
def test_head_requires_a_token(anonymous: Caller) -> None:
    response = anonymous.request("HEAD", TASKS)
    assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")


@pytest.mark.spec("problems.type")
@pytest.mark.parametrize("kind", problems.TYPES.values(), ids=problems.TYPES)
def test_every_problem_type_has_an_explanation(anonymous: Caller, kind: problems.ProblemType) -> None:
    response = anonymous.get(f"/problems/{kind.name}")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert kind.explanation in response.text


@pytest.mark.spec("problems.type")
@pytest.mark.parametrize("name", ["x", "Not-Found", "not-found/", "%00", ".."])
def test_an_unknown_type_is_not_found(anonymous: Caller, name: str) -> None:
    assert_problem(anonymous.get(f"/problems/{name}"), 404, "not-found")


class Counted(BaseModel):
    count: int


LEAK = f"leak: {SECRET} postgres://app:hunter2@db/tasks SELECT * FROM tasks"


@pytest.fixture
def broken(make_settings: MakeSettings) -> Iterator[TestClient]:
    """The service with a route that raises an unexpected exception."""
    app = create_app(make_settings())

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError(LEAK)

    with TestClient(app) as client:
        yield client


@pytest.mark.spec("problems.unforeseen", "cors.allowed")
def test_an_unhandled_exception_reveals_nothing(broken: TestClient) -> None:
    response = broken.get("/broken", headers={"Origin": "https://app.example.com"})
    problem = assert_problem(response, 500, "internal-error")
    assert problem["detail"] == "Unexpected error. Report it with the request ID."
    assert "leak" not in response.text + str(response.headers)
    assert response.headers["access-control-allow-origin"] == "https://app.example.com"
    assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.spec("problems.http-exception")
@pytest.mark.parametrize(
    ("status", "title"),
    [(402, "Payment Required"), (404, "Not Found"), (405, None), (409, "Conflict"), (413, None), (418, None)],
)
def test_an_http_exception_keeps_its_status(
    make_settings: MakeSettings, status: int, title: str | None
) -> None:
    app = create_app(make_settings())

    @app.get("/refusing")
    async def refuse() -> None:
        raise HTTPException(status, "Because.", headers={"X-Why": "because", "Content-Type": "text/html"})

    with TestClient(app) as client:
        response = client.get("/refusing")
    assert (response.status_code, response.headers["x-why"]) == (status, "because")
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert (problem["type"], problem["status"], problem["detail"]) == ("about:blank", status, "Because.")
    assert title is None or problem["title"] == title


@pytest.mark.spec("problems.http-exception")
def test_a_status_that_is_no_error_has_no_problem(make_settings: MakeSettings) -> None:
    app = create_app(make_settings())

    @app.get("/unchanged")
    async def unchanged() -> None:
        raise HTTPException(304, headers={"ETag": '"1"'})

    with TestClient(app) as client:
        response = client.get("/unchanged")
    assert (response.status_code, response.headers["etag"], response.content) == (304, '"1"', b"")


@pytest.mark.spec("problems.errors")
@pytest.mark.parametrize(
    ("request_", "place"),
    [
        ({"headers": {"X-Number": "1"}}, {"pointer": ""}),
        ({"headers": {"X-Number": "1"}, "json": []}, {"pointer": ""}),
        ({"headers": {"X-Number": "1"}, "json": {"count": "x"}}, {"pointer": "/count"}),
        ({"json": {"count": 1}}, {"header": "x-number"}),
        (
            {"headers": {"X-Number": "1"}, "json": {"count": 1}, "params": {"limit": "x"}},
            {"parameter": "limit"},
        ),
    ],
    ids=["no body", "array", "field", "header", "query"],
)
def test_what_fastapi_validates_is_located_too(
    make_settings: MakeSettings, request_: dict[str, Any], place: dict[str, str]
) -> None:
    """A route that declares body, header and query as FastAPI's tutorial does."""
    app = create_app(make_settings())

    @app.post("/typical")
    async def typical(body: Counted, x_number: Annotated[int, Header()], limit: int = 1) -> None: ...

    with TestClient(app) as client:
        response = client.post("/typical", **request_)
    assert response.status_code == 422
    (error,) = response.json()["errors"]
    assert error.pop("detail")
    assert error == place


@contextmanager
def captured_log(level: int) -> Iterator[StringIO]:
    """Capture the service's log from this level on."""
    handler = logging.StreamHandler(StringIO())
    handler.setLevel(level)
    handler.setFormatter(JsonFormatter())
    logging.getLogger().addHandler(handler)
    try:
        yield handler.stream
    finally:
        logging.getLogger().removeHandler(handler)


@pytest.mark.spec("process.logs.unforeseen", "process.logs.secrets")
def test_an_unhandled_exception_is_logged(broken: TestClient) -> None:
    with captured_log(logging.ERROR) as output:
        request_id = broken.get("/broken").headers["x-request-id"]
    line = json.loads(output.getvalue())
    assert line["request_id"] == request_id
    assert line["message"] == "unhandled exception"
    assert "test_problems.py" in line["exception"]
    assert line["exception"].endswith("RuntimeError")
    assert SECRET not in str(line)
    assert "hunter2" not in str(line)


@pytest.fixture(scope="module")
def raising(make_settings: MakeSettings, server_url: URL) -> Iterator[Caller]:
    """A user in whose database an INSERT fails with the SQLSTATE that is the task's title."""
    with new_database(server_url) as url:
        alembic(url, command.upgrade, "head")
        sql = Sql(url)
        sql(FAIL_WITH_TITLE)
        sql.close()
        with TestClient(create_app(make_settings(database_url=libpq_url(url)))) as client:
            yield client_as(client, "somebody")


@pytest.mark.spec("problems.sqlstate")
@pytest.mark.parametrize(("state", "status"), [*sqlstates(), ("22001", 500), ("23505", 500), ("42601", 500)])
def test_a_database_error_gets_the_status_of_its_sqlstate(raising: Caller, state: str, status: int) -> None:
    """PostgreSQL itself raises it, from a trigger."""
    response = raising.post({"title": state})
    assert_problem(response, status, "unavailable" if status == 503 else "internal-error")
    assert ("retry-after" in response.headers) == (status == 503)


@pytest.mark.spec("problems.privilege")
@pytest.mark.parametrize(
    "damage",
    [
        "REVOKE INSERT ON tasks FROM tasks_api",
        "CREATE POLICY nobody ON tasks AS RESTRICTIVE FOR INSERT TO tasks_api WITH CHECK (false)",
    ],
    ids=["no grant", "row security"],
)
def test_an_insufficient_privilege_is_a_500(serve: Serve, migrated: URL, damage: str) -> None:
    caller = client_as(serve(database_url=libpq_url(migrated)), "somebody")
    sql = Sql(migrated)
    sql(damage)
    sql.close()
    with captured_log(logging.ERROR) as output:
        assert_problem(caller.post({"title": "x"}), 500, "internal-error")
    line = json.loads(output.getvalue())
    assert line["message"] == "database error"
    assert "SQLSTATE 42501" in line["exception"]


@pytest.mark.spec("process.logs.secrets")
def test_the_text_of_a_database_error_is_not_logged(serve: Serve, migrated: URL) -> None:
    """PostgreSQL quotes the statement, which contains the values as literals."""
    caller = client_as(serve(database_url=libpq_url(migrated)), "somebody")
    task = caller.create()["id"]
    sql = Sql(migrated)
    sql("ALTER TABLE tasks RENAME COLUMN title TO name")
    sql.close()
    with captured_log(logging.WARNING) as output:
        assert_problem(caller.patch(task, {"title": "mark-title"}), 503, "unavailable")
    line = json.loads(output.getvalue())
    assert line["message"] == "database unavailable: ProgrammingError (SQLSTATE 42703)"
    assert "mark" not in output.getvalue()
    assert "LINE" not in output.getvalue()


@pytest.mark.spec("problems.unavailable", "process.reconnect")
def test_a_read_only_database_serves_reads(serve: Serve, migrated: URL) -> None:
    caller = client_as(serve(database_url=libpq_url(migrated)), "somebody")
    task = caller.create()
    sql = Sql(migrated)
    sql(f'ALTER DATABASE "{migrated.database}" SET default_transaction_read_only = on')
    sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        " AND datname = current_database()")  # fmt: skip
    for change in (
        caller.post({"title": "x"}),
        caller.patch(task["id"], {"title": "x"}),
        caller.delete(task["id"]),
    ):
        assert_problem(change, 503, "unavailable")
        assert int(change.headers["retry-after"]) >= 1
    assert caller.get().json() == [task]
    sql("SET default_transaction_read_only = off")
    sql(f'ALTER DATABASE "{migrated.database}" SET default_transaction_read_only = off')
    sql.close()
    assert caller.patch(task["id"], {"title": "x"}).status_code in {200, 503}
    assert ok(caller.patch(task["id"], {"title": "y"}))["title"] == "y"


@pytest.mark.spec("problems.unavailable")
@pytest.mark.parametrize(
    "damage",
    [
        "DROP TABLE tasks",
        "ALTER TABLE tasks RENAME COLUMN tags TO labels",
    ],
)
def test_a_missing_schema_is_unavailable(serve: Serve, migrated: URL, route: Route, damage: str) -> None:
    sql = Sql(migrated)
    sql(damage)
    sql.close()
    response = client_as(serve(database_url=libpq_url(route(migrated))), "somebody").get()
    assert_problem(response, 503, "unavailable")
    assert int(response.headers["retry-after"]) >= 1
    for word in ("tasks_api", "relation", "column", "SELECT", "psycopg2"):
        assert word not in response.text
