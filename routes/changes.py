"""The HTTP contract of /api/tasks/changes: what a client that keeps a copy of the tasks has missed."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from auth.bearer import CurrentUser
from auth.rate_limits import rate_limits
from db import RequestDatabase
from observability import request_context
from problems import SYNC_EXPIRED, ProblemError
from schemas import TaskChanges
from services.changes import Changes, Position, changes_since
from services.waiting import Place, TooManyWaiting, WaitingRoom
from web import openapi
from web.errors import is_transient
from web.pagination import fitting
from web.parameters import ChangesQuery, query_parameters
from web.routing import UserDataRoute, refuse_other_methods

OTHER_METHODS = ["PUT", "PATCH", "DELETE"]

CLOSING_SECONDS = 1.0
"""How long a request may wait in a process that is about to stop."""

READ_AGAIN_SECONDS = 2.0
"""How much longer than `wait` a response may take: routers end a request after 30 s."""

Read = Callable[[], Awaitable[Changes]]

router = APIRouter(
    prefix="/api/tasks/changes",
    tags=["tasks"],
    route_class=UserDataRoute,
    responses=openapi.problems_of(*openapi.COMMON_PROBLEMS),
    generate_unique_id_function=openapi.operation_id,
)


@router.get(
    "",
    response_model=TaskChanges,
    responses={
        200: openapi.success("The next changes."),
        **openapi.problems_of(SYNC_EXPIRED),
    },
    openapi_extra=openapi.parameters(ChangesQuery),
)
async def list_changes(
    request: Request,
    user_id: CurrentUser,
    query: Annotated[ChangesQuery, Depends(query_parameters(ChangesQuery))],
    database: RequestDatabase,
) -> Response:
    """Follow your changes, so that a copy of your tasks stays complete.

    Begin without `since`, and replace or add each task, or remove it if it has `deleted_at`. Then
    continue with `since` = `position`, at once if `more` is true. If that is 410, discard the copy
    and begin again. With `wait`, the response to a request that has seen everything waits for the
    next change.
    """
    since = Position.parse(query.since)
    rate_limits(request).lists.enter(user_id)

    async def read() -> Changes:
        return await database.run(user_id, changes_since, since, query.limit + 1)

    waits = query.wait > 0 and request_context.current().wants_body
    page = await (_read_or_wait(request, user_id, since, query.wait, read) if waits else read())
    tasks, count = fitting(page.tasks[: query.limit])
    more = b"true" if count < len(page.tasks) else b"false"
    position = str(page.position(count)).encode()
    body = b'{"tasks":%b,"position":"%b","more":%b}' % (tasks, position, more)
    return Response(body, media_type="application/json")


async def _read_or_wait(request: Request, user_id: str, since: Position, seconds: int, read: Read) -> Changes:
    """The changes, once there are any, or the time is up.

    The time is also up when the token expires, the client disconnects, or the process is about to
    stop. Raises a problem if too many requests wait already, unless there are changes.
    """
    room: WaitingRoom = request.app.state.waiting_room
    with ExitStack() as stack:
        try:
            rate_limits(request).waits.enter(user_id)
            place = stack.enter_context(room.place(user_id, since.seq))
        except (ProblemError, TooManyWaiting):
            page = await read()
            if page.is_empty:
                raise
            return page
        disconnect = asyncio.create_task(_disconnect(request, place))
        stack.callback(disconnect.cancel)
        valid_for = request_context.current().accepted_until - time.time()
        # A client whose wait was ended by the stop would otherwise ask again and again.
        longest = CLOSING_SECONDS if room.closed else seconds
        until = time.monotonic() + min(longest, valid_for)
        page, woken = await read(), True
        while page.is_empty and woken:
            woken = await place.news(until - time.monotonic())
            # These end many waits at the same time, which must not all read again.
            if disconnect.done() or room.closed:
                break
            page = await _read_again(read, page)
        return page


async def _read_again(read: Read, before: Changes) -> Changes:
    """The changes now; without an answer of the database those before, which say nothing wrong."""
    try:
        async with asyncio.timeout(READ_AGAIN_SECONDS):
            return await read()
    except Exception as error:
        if is_transient(error):
            return before
        raise


async def _disconnect(request: Request, place: Place) -> None:
    """Wake the place when the client disconnects."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    place.wake()


refuse_other_methods(router, OTHER_METHODS)
