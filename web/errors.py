"""Exception handlers: every exception, and every SQLSTATE, becomes a problem here.

Exceptions without a handler are left to `middleware.RequestContextMiddleware`.
"""

import json
import logging
import re
from collections.abc import Awaitable, Callable, Iterable
from functools import cache
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import compile_path

import problems
from database.session import READ_ONLY, sqlstate
from db import NOT_MIGRATED, DatabaseTimeout, NotReady, PoolExhausted
from observability import logs, request_context
from problems import ProblemError, ProblemItem
from services.changes import SyncExpired
from services.creation import KeyReused, TaskExists
from services.tasks import PreconditionFailed, QuotaReached, TaskNotFound
from services.waiting import TooManyWaiting
from web.parameters import invalid_parameters
from web.preconditions import task_tag

log = logging.getLogger(__name__)

UNAVAILABLE_SQLSTATES = (
    "08",  # connection exception
    "28",  # invalid authorization
    "53",  # insufficient resources
    "57",  # operator intervention; 57014 is the statement timeout
    "58",  # system error
    "3D000",  # no such database
    "40001",  # serialization failure
    "40P01",  # deadlock
    "55P03",  # lock not available
    READ_ONLY,
    *sorted(NOT_MIGRATED),
)
"""SQLSTATEs, or their classes, of transient errors: 503. All others are 500.

The table is in specs/api/rest-endpoints.md, section 5.
"""

NO_SUCH_TASK = ProblemError(problems.NOT_FOUND, "You have no such task.")
OTHER_TASK = "You have another task with this ID."
QUOTA_IS_REACHED = ProblemError(
    problems.QUOTA_REACHED, "You have reached the maximum number of tasks. Delete some of them first."
)

ToProblem = Callable[[Request, Any], ProblemError | Response]


def install(app: FastAPI) -> None:
    for kind, to_problem in _PROBLEMS.items():
        app.add_exception_handler(kind, _handler(to_problem))


def _handler(to_problem: ToProblem) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def handle(request: Request, error: Exception) -> Response:
        found = to_problem(request, error)
        if isinstance(found, Response):
            return found
        return problems.response(request_context.current().request_id, found)

    return handle


def _validation(_: Request, error: RequestValidationError) -> ProblemError:
    """Queries, path parameters, and whatever else a route leaves to FastAPI."""
    return invalid_parameters(_item(each["msg"], *each["loc"]) for each in error.errors())


def _item(message: str, place: str, *path: str | int) -> ProblemItem:
    detail = f"{message}."
    if place == "body":
        return ProblemItem(detail=detail, pointer="".join(f"/{part}" for part in path))
    name = str(path[0]) if path else ""
    return (
        ProblemItem(detail=detail, header=name)
        if place == "header"
        else ProblemItem(detail=detail, parameter=name)
    )


def _http(request: Request, error: HTTPException) -> ProblemError | Response:
    """The router's 404 and 405, and any status that a route raises as an HTTPException.

    The router's exceptions have the status phrase as their detail. A status below 400 is not
    an error, so it is not a problem.
    """
    status, detail = error.status_code, error.detail
    headers = {
        name: value
        for name, value in (error.headers or {}).items()
        if not name.lower().startswith("content-")
    }
    if status < 400:
        return Response(status_code=status, headers=headers)
    kind = problems.of_status(status)
    if detail == kind.title and status == 404:
        return ProblemError(problems.NOT_FOUND, "There is nothing at this path.")
    if detail == kind.title and status == 405:
        allow = ", ".join(sorted(_methods(request) | _with_head(headers.get("Allow", "").split(", "))))
        return ProblemError(problems.METHOD_NOT_ALLOWED, "See the Allow header.", headers={"Allow": allow})
    return ProblemError(kind, detail if isinstance(detail, str) else json.dumps(detail), headers=headers)


def _methods(request: Request) -> set[str]:
    """The methods of the path in the OpenAPI document; the router knows those of one route."""
    app: FastAPI = request.app
    paths, requested = app.openapi()["paths"], request.url.path
    matching = [requested] if requested in paths else filter(_matches(requested), paths)
    return _with_head(method.upper() for path in matching for method in paths[path])


def _with_head(methods: Iterable[str]) -> set[str]:
    found = set(filter(None, methods))
    return found | {"HEAD"} if "GET" in found else found


def _matches(requested: str) -> Callable[[str], object]:
    return lambda path: _pattern(path).fullmatch(requested)


@cache
def _pattern(path: str) -> re.Pattern[str]:
    return compile_path(path)[0]


def _body_did_not_arrive(_: Request, __: ClientDisconnect) -> ProblemError:
    """The body took longer than `web.connections.BODY_SECONDS`, or the client has disconnected."""
    return ProblemError(problems.REQUEST_TIMEOUT, "The body did not arrive in time.")


def _precondition_failed(_: Request, error: PreconditionFailed) -> ProblemError:
    detail = "If-Match does not name the current version of the task."
    return ProblemError(problems.PRECONDITION_FAILED, detail, headers=_current_tag(error.seq))


def _task_exists(_: Request, error: TaskExists) -> ProblemError:
    headers = _current_tag(error.seq)
    return ProblemError(problems.TASK_EXISTS, OTHER_TASK, headers=headers)


def _current_tag(seq: int) -> dict[str, str]:
    """The header with the tag of the caller's task at this position."""
    return {"ETag": task_tag(seq, request_context.current().user_id or "")}


def _database(_: Request, error: DBAPIError) -> ProblemError:
    if is_unavailable(error):
        log.warning("database unavailable: %s", logs.name(error))
        return problems.unavailable("The database cannot serve this request now.")
    log.error("database error", exc_info=error)
    return problems.internal_error()


def is_unavailable(error: DBAPIError) -> bool:
    """Whether the error is transient, so that the client should retry."""
    state = sqlstate(error)
    if state is None:
        return isinstance(error, OperationalError | InterfaceError)
    return state.startswith(UNAVAILABLE_SQLSTATES)


def is_transient(error: Exception) -> bool:
    """Whether the database has not answered, or could not be asked, so that this request gets 503."""
    if isinstance(error, DBAPIError):
        return is_unavailable(error)
    return isinstance(error, TimeoutError | PoolExhausted)


_PROBLEMS: dict[type[Exception], ToProblem] = {
    ProblemError: lambda _, error: error,
    TaskNotFound: lambda *_: NO_SUCH_TASK,
    PreconditionFailed: _precondition_failed,
    TaskExists: _task_exists,
    KeyReused: lambda *_: ProblemError(
        problems.IDEMPOTENCY_KEY_REUSED, "An earlier request with this key had another body."
    ),
    SyncExpired: lambda *_: ProblemError(
        problems.SYNC_EXPIRED, "The changes since this position are no longer known. Begin without since."
    ),
    TooManyWaiting: lambda *_: problems.unavailable(
        "Too many requests are waiting for changes. Ask without wait."
    ),
    QuotaReached: lambda *_: QUOTA_IS_REACHED,
    RequestValidationError: _validation,
    HTTPException: _http,
    ClientDisconnect: _body_did_not_arrive,
    NotReady: lambda _, error: problems.unavailable(str(error)),
    PoolExhausted: lambda *_: problems.unavailable("All database connections are busy."),
    DatabaseTimeout: lambda *_: problems.unavailable("The database did not answer in time."),
    DBAPIError: _database,
}
