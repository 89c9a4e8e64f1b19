"""The HTTP contract of /api/tasks. Each operation parses, makes one call, and responds."""

from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from auth.bearer import CurrentUser
from auth.rate_limits import rate_limits
from db import RequestDatabase
from problems import (
    CONFLICTING_PARAMETERS,
    IDEMPOTENCY_KEY_REUSED,
    INVALID_CURSOR,
    INVALID_PRECONDITION,
    QUOTA_REACHED,
    TASK_EXISTS,
    UNKNOWN_CURSOR,
)
from schemas import TaskCreate, TaskRead, TaskReplace, TaskUpdate, task_json
from services import creation, lists, tasks
from web import openapi
from web.idempotency import KEY_PATTERN, idempotency_key
from web.json_bodies import JSON, MERGE_PATCH, json_body
from web.pagination import decode_cursor, encode_cursor, fitting, next_link
from web.parameters import TaskId, TaskQuery, query_parameters
from web.preconditions import (
    if_match,
    if_none_match,
    known_positions,
    list_tag,
    task_tag,
    unless_known,
)
from web.routing import UserDataRoute

router = APIRouter(
    prefix="/api/tasks",
    tags=["tasks"],
    route_class=UserDataRoute,
    responses=openapi.problems_of(*openapi.COMMON_PROBLEMS),
    generate_unique_id_function=openapi.operation_id,
)

ListQuery = Annotated[TaskQuery, Depends(query_parameters(TaskQuery))]
NewTask = Annotated[TaskCreate, Depends(json_body(TaskCreate, JSON))]
WholeTask = Annotated[TaskReplace, Depends(json_body(TaskReplace, JSON))]
Patch = Annotated[TaskUpdate, Depends(json_body(TaskUpdate, JSON, MERGE_PATCH))]

_TASK = openapi.success("The task.", openapi.headers("ETag"))
_CHANGED = openapi.success("The task.", openapi.headers("ETag", "Tasks-Position"))
_NOT_MODIFIED = openapi.not_modified("The task is the one that If-None-Match names.")
_IF_MATCH = {"parameters": [openapi.header("If-Match")]}
_IF_NONE_MATCH = {"parameters": [openapi.header("If-None-Match")]}
_LIST_PARAMETERS = {
    "parameters": [*openapi.parameters(TaskQuery)["parameters"], *_IF_NONE_MATCH["parameters"]]
}


@router.get(
    "",
    response_model=list[TaskRead],
    responses={
        200: openapi.success(
            "A page of tasks.", openapi.headers("ETag") | openapi.headers("Link", required=False)
        ),
        304: openapi.not_modified("Nothing has changed since the response that If-None-Match names."),
        **openapi.problems_of(INVALID_CURSOR, UNKNOWN_CURSOR, CONFLICTING_PARAMETERS),
    },
    openapi_extra=_LIST_PARAMETERS,
)
async def list_tasks(
    request: Request,
    user_id: CurrentUser,
    query: ListQuery,
    database: RequestDatabase,
) -> Response:
    """List your tasks, newest first, or in another order.

    Filters are combined: a task must match all of them. Send `tag` and `any_tag` once for each
    tag. For overdue tasks, use `completed=false&due_before=<now>`.

    If there are more tasks, the response has a `Link` header with `rel="next"`: request that
    URL unchanged. A page has up to `limit` tasks, and fewer if they would exceed 256 KiB.
    """
    rate_limits(request).lists.enter(user_id)
    known = if_none_match(request)
    after = decode_cursor(query.cursor, user_id, query) if query.cursor is not None else None
    asked = query.text
    page = await database.run(
        user_id,
        lists.list_tasks,
        where=query,
        sort=query.order,
        after=after,
        limit=query.limit + 1,
        known=known_positions(known, user_id, asked),
    )
    body, count = fitting(page.tasks[: query.limit])
    response = _json(body)
    if len(page.tasks) > count:
        cursor = encode_cursor(page.position(count), user_id, query)
        response.headers["Link"] = next_link("/api/tasks", request.query_params.multi_items(), cursor)
    return unless_known(response, list_tag(page.feed, user_id, asked), known)


@router.post(
    "",
    status_code=201,
    response_model=TaskRead,
    responses={
        201: openapi.success(
            "The new task.",
            openapi.headers("Location", "ETag", "Tasks-Position")
            | openapi.headers("Idempotency-Replayed", required=False),
        ),
        200: openapi.success(
            "You have this task already.", openapi.headers("Location", "ETag", "Tasks-Position")
        )
        | {"model": TaskRead},
        **openapi.problems_of(*openapi.BODY_PROBLEMS, QUOTA_REACHED, IDEMPOTENCY_KEY_REUSED),
        409: openapi.problem(TASK_EXISTS, openapi.headers("ETag", required=False)),
    },
    openapi_extra=openapi.request_body(TaskCreate, JSON)
    | {"parameters": [openapi.header("Idempotency-Key", pattern=KEY_PATTERN)]},
)
async def create_task(
    request: Request, user_id: CurrentUser, body: NewTask, database: RequestDatabase
) -> Response:
    """Create a task.

    To be able to send the request again when there was no response, send an `Idempotency-Key`, or
    choose the task's `id`. Without either, sending the same body twice creates two tasks. A key is
    kept for 24 hours.
    """
    key = idempotency_key(request)
    task, outcome = await database.write(user_id, creation.create_task, body, key)
    headers = {"Location": f"/api/tasks/{task.id}"}
    if outcome == "repeated":
        headers["Idempotency-Replayed"] = "true"
    return _task(task, 200 if outcome == "existing" else 201, headers)


@router.get(
    "/{task_id}",
    response_model=TaskRead,
    responses={
        200: _TASK,
        304: _NOT_MODIFIED,
        **openapi.problems_of(INVALID_PRECONDITION, *openapi.ID_PROBLEMS),
    },
    openapi_extra=_IF_NONE_MATCH,
)
async def get_task(
    task_id: TaskId, request: Request, user_id: CurrentUser, database: RequestDatabase
) -> Response:
    """Get one of your tasks.

    With the `ETag` of an earlier response in `If-None-Match`, an unchanged task is 304.
    """
    known = if_none_match(request)
    task = await database.run(user_id, tasks.get_task, task_id)
    return unless_known(_json(task_json(task)), task_tag(task.seq, user_id), known)


@router.put(
    "/{task_id}",
    response_model=TaskRead,
    responses={200: _CHANGED, **openapi.problems_of(*openapi.BODY_PROBLEMS, *openapi.CHANGE_PROBLEMS)},
    openapi_extra=openapi.request_body(TaskReplace, JSON) | _IF_MATCH,
)
async def replace_task(
    task_id: TaskId, request: Request, user_id: CurrentUser, body: WholeTask, database: RequestDatabase
) -> Response:
    """Replace every writable field of a task.

    A field that you omit takes its default. PUT never creates a task.
    """
    expected = if_match(request, user_id)
    return _task(await database.write(user_id, tasks.replace_task, task_id, body, expected))


@router.patch(
    "/{task_id}",
    response_model=TaskRead,
    responses={200: _CHANGED, **openapi.problems_of(*openapi.BODY_PROBLEMS, *openapi.CHANGE_PROBLEMS)},
    openapi_extra=openapi.request_body(TaskUpdate, JSON, MERGE_PATCH) | _IF_MATCH,
)
async def update_task(
    task_id: TaskId, request: Request, user_id: CurrentUser, body: Patch, database: RequestDatabase
) -> Response:
    """Change some fields of a task (JSON Merge Patch, RFC 7396).

    A field that you omit keeps its value; null clears `description` and `due_at`.
    """
    expected = if_match(request, user_id)
    return _task(await database.write(user_id, tasks.update_task, task_id, body, expected))


@router.delete(
    "/{task_id}",
    status_code=204,
    response_class=Response,
    responses={
        204: openapi.no_content("The task is deleted.", "Tasks-Position"),
        **openapi.problems_of(INVALID_PRECONDITION, *openapi.CHANGE_PROBLEMS),
    },
    openapi_extra=_IF_MATCH,
)
async def delete_task(
    task_id: TaskId, request: Request, user_id: CurrentUser, database: RequestDatabase
) -> Response:
    """Delete a task. Deleting it again returns 404."""
    expected = if_match(request, user_id)
    seq = await database.write(user_id, tasks.delete_task, task_id, expected)
    return Response(status_code=204, headers={"Tasks-Position": str(seq)})


@router.post(
    "/{task_id}/restore",
    response_model=TaskRead,
    responses={
        200: _CHANGED,
        **openapi.problems_of(INVALID_PRECONDITION, *openapi.CHANGE_PROBLEMS, QUOTA_REACHED),
    },
    openapi_extra=_IF_MATCH,
)
async def restore_task(
    task_id: TaskId, request: Request, user_id: CurrentUser, database: RequestDatabase
) -> Response:
    """Bring a deleted task back.

    A task that is not deleted stays as it is, so a restore can be repeated.
    """
    expected = if_match(request, user_id)
    return _task(await database.write(user_id, tasks.restore_task, task_id, expected))


def _task(task: TaskRead, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    own = {"ETag": task_tag(task.seq, task.user_id), "Tasks-Position": str(task.seq)}
    return _json(task_json(task), status, {**own, **(headers or {})})


def _json(body: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(body, status, headers, media_type="application/json")
