"""The HTTP contract of /api/tasks/changes: what a client that keeps a copy of the tasks has missed."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from auth.bearer import CurrentUser
from auth.rate_limits import rate_limits
from db import RequestDatabase
from problems import SYNC_EXPIRED
from schemas import TaskChanges
from services.changes import Position, changes_since
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
    and begin again.
    """
    rate_limits(request).lists.enter(user_id)
    page = await database.run(user_id, changes_since, Position.parse(query.since), query.limit + 1)
    tasks, count = fitting(page.tasks[: query.limit])
    more = b"true" if count < len(page.tasks) else b"false"
    position = str(page.position(count)).encode()
    body = b'{"tasks":%b,"position":"%b","more":%b}' % (tasks, position, more)
    return Response(body, media_type="application/json")


refuse_other_methods(router, OTHER_METHODS)
