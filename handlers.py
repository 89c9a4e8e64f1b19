"""From exceptions to problems: one handler for each kind that may reach the top.

What none of them knows is left to `middleware.Unforeseen`.
"""

import logging
import re
from functools import cache

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DBAPIError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import compile_path

import logs
import problems
from db import NotReady, PoolExhausted, Unanswered
from problems import ProblemError, ProblemItem
from services.tasks import TaskNotFound

log = logging.getLogger(__name__)


def install(app: FastAPI) -> None:
    for kind, handler in _HANDLERS.items():
        app.add_exception_handler(kind, handler)


def _answer(request: Request, error: ProblemError) -> Response:
    return problems.response(request.state.request_id, error)


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, ProblemError)
    return _answer(request, error)


async def _task_not_found(request: Request, error: Exception) -> Response:
    return _answer(request, ProblemError(problems.NOT_FOUND, "You have no such task."))


async def _invalid_parameters(request: Request, error: Exception) -> Response:
    """Bodies are read by `bodies`, so what FastAPI finds is in the path or the query."""
    assert isinstance(error, RequestValidationError)
    items = [ProblemItem(detail=f"{each['msg']}.", parameter=str(each["loc"][1])) for each in error.errors()]
    return _answer(
        request,
        ProblemError(problems.INVALID_REQUEST, "A parameter breaks a rule; see errors.", errors=items),
    )


async def _http(request: Request, error: Exception) -> Response:
    """404 and 405 of the router, and whatever status a route raises as an HTTPException."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        allow = ", ".join(sorted(_methods(request) or {"GET", "HEAD"}))
        refusal = ProblemError(problems.METHOD_NOT_ALLOWED, "See the Allow header.", headers={"Allow": allow})
        return _answer(request, refusal)
    if error.status_code == 404:
        return _answer(request, ProblemError(problems.NOT_FOUND, "There is nothing at this path."))
    kind = problems.of_status(error.status_code)
    return _answer(request, ProblemError(kind, str(error.detail), headers=error.headers))


def _methods(request: Request) -> set[str]:
    """All methods of the path: each route knows only its own, the document knows them all.

    The set is empty for the pages that are not in the document, which are only read.
    """
    app: FastAPI = request.app
    found = {
        method.upper()
        for path, item in app.openapi()["paths"].items()
        if _pattern(path).fullmatch(request.url.path)
        for method in item
    }
    return found | {"HEAD"} if "GET" in found else found


@cache
def _pattern(path: str) -> re.Pattern[str]:
    return compile_path(path)[0]


async def _no_more_body(request: Request, error: Exception) -> Response:
    """The rest of the body took too long, or the client is gone and hears nothing.

    The server keeps the time: `web.connections.BODY_SECONDS`.
    """
    return _answer(request, ProblemError(problems.REQUEST_TIMEOUT, "The body did not arrive in time."))


async def _not_ready(request: Request, error: Exception) -> Response:
    return _answer(request, problems.unavailable(str(error)))


async def _overloaded(request: Request, error: Exception) -> Response:
    return _answer(request, problems.unavailable("All database connections are busy."))


async def _unanswered(request: Request, error: Exception) -> Response:
    return _answer(request, problems.unavailable("The database did not answer in time."))


async def _database(request: Request, error: Exception) -> Response:
    assert isinstance(error, DBAPIError)
    answer = problems.from_database(error)
    if answer.kind is problems.INTERNAL_ERROR:
        log.error("database error", exc_info=error)
    else:
        log.warning("database unavailable: %s", logs.name(error))
    return _answer(request, answer)


_HANDLERS = {
    ProblemError: _problem,
    TaskNotFound: _task_not_found,
    RequestValidationError: _invalid_parameters,
    HTTPException: _http,
    ClientDisconnect: _no_more_body,
    NotReady: _not_ready,
    PoolExhausted: _overloaded,
    Unanswered: _unanswered,
    DBAPIError: _database,
}
