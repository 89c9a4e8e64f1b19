"""A raw ASGI app with the same responses: approximately the upper bound for a Python server.

An ASGI function and psycopg2 with one connection per thread; PostgreSQL renders the JSON.
It verifies tokens and sets the role and the user, as the service does. It has no
validation, rate limits, logging or response headers other than Content-Type.
"""

import asyncio
import json
import os
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jwt
import psycopg2
from uuid_utils.compat import uuid7

Message = MutableMapping[str, Any]

SECRET = os.environ["BETTER_AUTH_SECRET"]
FIELDS = (
    "id, user_id, title, description, completed, completed_at, priority, due_at, tags, version,"
    " created_at, updated_at, deleted_at"
)
SCOPE = (
    "SELECT set_config('role', 'tasks_api', true), set_config('app.user_id', %(user)s, true),"
    " set_config('statement_timeout', '5000', true), set_config('TimeZone', 'UTC', true);"
)
MINE = "user_id = %(user)s AND deleted_at IS NULL"
GET = f"{SCOPE} SELECT row_to_json(t)::text FROM (SELECT {FIELDS} FROM tasks WHERE {MINE} AND id = %(id)s) t"
LIST = (
    f"{SCOPE} SELECT coalesce(json_agg(row_to_json(t)), '[]')::text FROM"
    f" (SELECT {FIELDS} FROM tasks WHERE {MINE} ORDER BY id DESC LIMIT %(limit)s) t"
)
CREATE = (
    f"{SCOPE} WITH t AS (INSERT INTO tasks (user_id, id, title, description, priority, tags)"
    " VALUES (%(user)s, %(id)s, %(title)s, %(description)s, %(priority)s, %(tags)s)"
    f" RETURNING {FIELDS}) SELECT row_to_json(t)::text FROM t"
)
UPDATE = (
    f"{SCOPE} WITH t AS (UPDATE tasks SET title = %(title)s, version = version + 1,"
    f" updated_at = clock_timestamp() WHERE {MINE} AND id = %(id)s RETURNING {FIELDS})"
    " SELECT row_to_json(t)::text FROM t"
)
DELETE = f"{SCOPE} UPDATE tasks SET deleted_at = clock_timestamp() WHERE {MINE} AND id = %(id)s RETURNING ''"

DEFAULTS: dict[str, object] = {"description": None, "priority": "medium", "tags": []}
JSON = [(b"content-type", b"application/json")]

executor = ThreadPoolExecutor(5)
thread_state = threading.local()
subjects: dict[bytes, str] = {}
"""The subject of each token that was verified."""


def fetch_json(statement: str, parameters: dict[str, object]) -> bytes | None:
    """The JSON text of the single row, or None without a row. Each executor thread keeps its connection."""
    if not hasattr(thread_state, "cursor"):
        connection = psycopg2.connect(os.environ["DATABASE_URL"])
        connection.autocommit = True
        thread_state.cursor = connection.cursor()
    thread_state.cursor.execute(statement, parameters)
    row = thread_state.cursor.fetchone()
    return None if row is None else row[0].encode()


def authenticate(headers: list[tuple[bytes, bytes]]) -> str | None:
    token = dict(headers).get(b"authorization", b"")[7:]
    if token not in subjects:
        try:
            subjects[token] = jwt.decode(token, SECRET, ["HS256"])["sub"]
        except jwt.InvalidTokenError:
            return None
    return subjects[token]


async def app(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    if scope["type"] == "lifespan":
        for reply in ("lifespan.startup.complete", "lifespan.shutdown.complete"):
            await receive()
            await send({"type": reply})
        return
    status, body = await respond(scope, receive)
    await send({"type": "http.response.start", "status": status, "headers": JSON})
    await send({"type": "http.response.body", "body": body})


async def respond(scope: Message, receive: Callable[[], Awaitable[Message]]) -> tuple[int, bytes]:
    if scope["path"].startswith("/health"):
        return 200, b"{}"
    user = authenticate(scope["headers"])
    if user is None:
        return 401, b"{}"
    method, parameters = scope["method"], {"user": user, "id": scope["path"][11:]}
    if method in {"POST", "PATCH"}:
        parameters |= DEFAULTS | json.loads((await receive())["body"])
    statement, status = GET, 200
    if method == "POST":
        statement, status, parameters["id"] = CREATE, 201, str(uuid7())
    elif method == "PATCH":
        statement = UPDATE
    elif method == "DELETE":
        statement, status = DELETE, 204
    elif not parameters["id"]:
        statement, parameters["limit"] = LIST, scope["query_string"].rpartition(b"=")[2].decode()
    found = await asyncio.get_running_loop().run_in_executor(executor, fetch_json, statement, parameters)
    return (404, b"{}") if found is None else (status, found)
