"""The HTTP contract of /api/tasks. Each operation parses, makes one call, and responds."""

from itertools import accumulate
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from pydantic import TypeAdapter

from auth.bearer import CurrentUser
from auth.rate_limits import RateLimits, get_rate_limits
from db import Database, get_database
from problems import CONFLICTING_PARAMETERS, INVALID_CURSOR, UNKNOWN_CURSOR
from schemas import TaskCreate, TaskRead, TaskReplace, TaskUpdate
from services import lists, tasks
from services.lists import PAGE_BYTES
from web import openapi
from web.json_bodies import JSON, MERGE_PATCH, json_body
from web.pagination import decode_cursor, encode_cursor, next_link
from web.parameters import TaskId, TaskQuery, query_parameters
from web.routing import UserDataRoute

router = APIRouter(
    prefix="/api/tasks",
    tags=["tasks"],
    route_class=UserDataRoute,
    responses=openapi.problems_of(*openapi.COMMON_PROBLEMS),
    generate_unique_id_function=openapi.operation_id,
)

TasksDatabase = Annotated[Database, Depends(get_database)]
ListQuery = Annotated[TaskQuery, Depends(query_parameters(TaskQuery))]
NewTask = Annotated[TaskCreate, Depends(json_body(TaskCreate, JSON))]
WholeTask = Annotated[TaskReplace, Depends(json_body(TaskReplace, JSON))]
Patch = Annotated[TaskUpdate, Depends(json_body(TaskUpdate, JSON, MERGE_PATCH))]

_task_json = TypeAdapter(TaskRead).dump_json
_list_json = TypeAdapter(list[TaskRead]).dump_json
_TASK = openapi.success("The task.")


@router.get(
    "",
    response_model=list[TaskRead],
    responses={
        200: openapi.success("A page of tasks.", openapi.headers("Link", required=False)),
        **openapi.problems_of(INVALID_CURSOR, UNKNOWN_CURSOR, CONFLICTING_PARAMETERS),
    },
    openapi_extra=openapi.parameters(TaskQuery),
)
async def list_tasks(
    request: Request,
    user_id: CurrentUser,
    query: ListQuery,
    database: TasksDatabase,
    limits: Annotated[RateLimits, Depends(get_rate_limits)],
) -> Response:
    """List your tasks, newest first, or in another order.

    Filters are combined: a task must match all of them. Send `tag` and `any_tag` once for each
    tag. For overdue tasks, use `completed=false&due_before=<now>`.

    If there are more tasks, the response has a `Link` header with `rel="next"`: request that
    URL unchanged. A page has up to `limit` tasks, and fewer if they would exceed 256 KiB.
    """
    limits.lists.enter(user_id)
    after = decode_cursor(query.cursor, user_id, query) if query.cursor is not None else None
    page = await database.run(
        user_id, lists.list_tasks, where=query, sort=query.order, after=after, limit=query.limit + 1
    )
    body, count = _page(page.tasks[: query.limit])
    response = _json(body)
    if len(page.tasks) > count:
        cursor = encode_cursor(page.position(count), user_id, query)
        response.headers["Link"] = next_link("/api/tasks", request.query_params.multi_items(), cursor)
    return response


@router.post(
    "",
    status_code=201,
    response_model=TaskRead,
    responses={
        201: openapi.success("The new task.", openapi.headers("Location")),
        **openapi.problems_of(*openapi.BODY_PROBLEMS),
    },
    openapi_extra=openapi.request_body(TaskCreate, JSON),
)
async def create_task(user_id: CurrentUser, body: NewTask, database: TasksDatabase) -> Response:
    """Create a task.

    Sending the same body twice creates two tasks.
    """
    task = await database.run(user_id, tasks.create_task, body)
    response = _json(_task_json(task), status=201)
    response.headers["Location"] = f"/api/tasks/{task.id}"
    return response


@router.get(
    "/{task_id}",
    response_model=TaskRead,
    responses={200: _TASK, **openapi.problems_of(*openapi.ID_PROBLEMS)},
)
async def get_task(task_id: TaskId, user_id: CurrentUser, database: TasksDatabase) -> Response:
    """Get one of your tasks."""
    return _json(_task_json(await database.run(user_id, tasks.get_task, task_id)))


@router.put(
    "/{task_id}",
    response_model=TaskRead,
    responses={200: _TASK, **openapi.problems_of(*openapi.BODY_PROBLEMS, *openapi.ID_PROBLEMS)},
    openapi_extra=openapi.request_body(TaskReplace, JSON),
)
async def replace_task(
    task_id: TaskId, user_id: CurrentUser, body: WholeTask, database: TasksDatabase
) -> Response:
    """Replace every writable field of a task.

    A field that you omit takes its default. PUT never creates a task.
    """
    return _json(_task_json(await database.run(user_id, tasks.replace_task, task_id, body)))


@router.patch(
    "/{task_id}",
    response_model=TaskRead,
    responses={200: _TASK, **openapi.problems_of(*openapi.BODY_PROBLEMS, *openapi.ID_PROBLEMS)},
    openapi_extra=openapi.request_body(TaskUpdate, JSON, MERGE_PATCH),
)
async def update_task(
    task_id: TaskId, user_id: CurrentUser, body: Patch, database: TasksDatabase
) -> Response:
    """Change some fields of a task (JSON Merge Patch, RFC 7396).

    A field that you omit keeps its value; null clears `description` and `due_at`.
    """
    return _json(_task_json(await database.run(user_id, tasks.update_task, task_id, body)))


@router.delete(
    "/{task_id}",
    status_code=204,
    response_class=Response,
    responses={
        204: {"description": "The task is deleted.", "headers": openapi.headers("X-Request-ID")},
        **openapi.problems_of(*openapi.ID_PROBLEMS),
    },
)
async def delete_task(task_id: TaskId, user_id: CurrentUser, database: TasksDatabase) -> Response:
    """Delete a task. Deleting it again returns 404."""
    await database.run(user_id, tasks.delete_task, task_id)
    return Response(status_code=204)


def _json(body: bytes, status: int = 200) -> Response:
    return Response(body, status, media_type="application/json")


def _page(found: list[TaskRead]) -> tuple[bytes, int]:
    """The JSON of the tasks that fit on a page, at least one, and their number."""
    body = _list_json(found)
    if len(body) <= PAGE_BYTES:
        return body, len(found)
    # Each task plus its comma or the closing bracket; `<` leaves room for the opening one.
    ends = accumulate(len(_task_json(task)) + 1 for task in found)
    count = max(1, sum(end < PAGE_BYTES for end in ends))
    return _list_json(found[:count]), count
