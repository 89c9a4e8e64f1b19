"""The HTTP contract of /api/tasks/changes: what a client that keeps a copy of the tasks has missed."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from auth.bearer import CurrentUser
from auth.rate_limits import rate_limits
from db import RequestDatabase
from observability import request_context
from problems import SYNC_EXPIRED
from schemas import TaskChanges
from services.changes import Changes, Position, changes_since
from services.waiting import Place, WaitingRoom
from web import openapi
from web.pagination import fitting
from web.parameters import ChangesQuery, query_parameters
from web.routing import UserDataRoute, refuse_other_methods

OTHER_METHODS = ["PUT", "PATCH", "DELETE"]

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

    page = await (_read_or_wait(request, user_id, since, query.wait, read) if query.wait else read())
    tasks, count = fitting(page.tasks[: query.limit])
    more = b"true" if count < len(page.tasks) else b"false"
    position = str(page.position(count)).encode()
    body = b'{"tasks":%b,"position":"%b","more":%b}' % (tasks, position, more)
    return Response(body, media_type="application/json")


async def _read_or_wait(
    request: Request, user_id: str, since: Position, seconds: int, read: Callable[[], Awaitable[Changes]]
) -> Changes:
    """The changes, once there are any, or the time is up.

    The time is also up when the token expires, the client disconnects, or the process stops.
    """
    room: WaitingRoom = request.app.state.waiting_room
    rate_limits(request).waits.enter(user_id)
    valid_for = request_context.current().token_expires_at - time.time()
    until = time.monotonic() + min(seconds, valid_for)
    with room.place(user_id, since.seq) as place:
        page = await read()
        disconnect = asyncio.create_task(_disconnect(request, place))
        try:
            while page.is_empty and not room.closed and await place.news(until - time.monotonic()):
                if disconnect.done():
                    break
                page = await read()
        finally:
            disconnect.cancel()
        return page


async def _disconnect(request: Request, place: Place) -> None:
    """Wake the place when the client disconnects."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    place.wake()


refuse_other_methods(router, OTHER_METHODS)
