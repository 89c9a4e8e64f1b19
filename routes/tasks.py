"""The HTTP contract of /api/tasks: parse, call, answer."""

from itertools import accumulate
from typing import Annotated
from urllib.parse import urlencode
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response
from pydantic import TypeAdapter

import contract
import cursors
from auth import CurrentUser
from bodies import JSON, MERGE_PATCH, json_body
from db import Database
from models import TaskCreate, TaskRead, TaskReplace, TaskUpdate
from problems import INVALID_CURSOR, ProblemError
from queries import DEFAULT_LIMIT, Completed, Cursor, Limit, TaskId, check_names
from rate_limits import RateLimits
from services import tasks
from services.tasks import PAGE_BYTES

router = APIRouter(prefix="/api/tasks", tags=["tasks"], generate_unique_id_function=contract.operation_id)

_one = TypeAdapter(TaskRead)
_many = TypeAdapter(list[TaskRead])

NewTask = Annotated[TaskCreate, Depends(json_body(TaskCreate, JSON))]
WholeTask = Annotated[TaskReplace, Depends(json_body(TaskReplace, JSON))]
Patch = Annotated[TaskUpdate, Depends(json_body(TaskUpdate, JSON, MERGE_PATCH))]
_found = contract.success("The task.", example=contract.EXAMPLE_TASK)


@router.get(
    "",
    response_model=list[TaskRead],
    responses={
        200: contract.success(
            "A page of tasks.",
            example=[contract.EXAMPLE_TASK],
            extra=contract.headers("Link", required=False),
        ),
        **contract.task_problems(INVALID_CURSOR),
    },
)
async def list_tasks(
    request: Request,
    user_id: CurrentUser,
    completed: Completed = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Response:
    """List your tasks, newest first.

    When there are more, the answer has a `Link` header with `rel="next"`: follow
    it as it is. A page has `limit` tasks, or fewer when these have more than 256 KiB.
    """
    check_names(request, "completed", "limit", "cursor")
    limits: RateLimits = request.app.state.limits
    limits.lists.enter(user_id)
    after = None if cursor is None else _position(cursor, user_id, completed)
    found = await _database(request).run(
        user_id, tasks.list_tasks, completed=completed, after=after, limit=limit + 1
    )
    body, count = _page(found[:limit])
    answer = _json(body)
    if len(found) > count:
        following = cursors.encode(UUID(found[count - 1].id), user_id, completed)
        query = urlencode({**request.query_params, "cursor": following})
        answer.headers["Link"] = f'</api/tasks?{query}>; rel="next"'
    return answer


@router.post(
    "",
    status_code=201,
    response_model=TaskRead,
    responses={
        201: contract.success(
            "The new task.", example=contract.EXAMPLE_TASK, extra=contract.headers("Location")
        )
        | {"links": contract.links_to_task()},
        **contract.task_problems(*contract.OF_A_BODY),
    },
    openapi_extra=contract.request_body(TaskCreate, JSON),
)
async def create_task(request: Request, user_id: CurrentUser, body: NewTask) -> Response:
    """Create a task.

    Sending the same body twice makes two tasks.
    """
    check_names(request)
    task = await _database(request).run(user_id, tasks.create_task, body)
    answer = _json(_one.dump_json(task), status=201)
    answer.headers["Location"] = f"/api/tasks/{task.id}"
    return answer


@router.get(
    "/{task_id}",
    response_model=TaskRead,
    responses={200: _found, **contract.task_problems(*contract.OF_AN_ID)},
)
async def get_task(request: Request, task_id: TaskId, user_id: CurrentUser) -> Response:
    """Read one of your tasks."""
    check_names(request)
    return _json(_one.dump_json(await _database(request).run(user_id, tasks.get_task, task_id)))


@router.put(
    "/{task_id}",
    response_model=TaskRead,
    responses={200: _found, **contract.task_problems(*contract.OF_A_BODY, *contract.OF_AN_ID)},
    openapi_extra=contract.request_body(TaskReplace, JSON),
)
async def replace_task(request: Request, task_id: TaskId, user_id: CurrentUser, body: WholeTask) -> Response:
    """Replace all that you can write of a task.

    A field that you leave out takes its default. A task that does not exist is
    not created.
    """
    check_names(request)
    return _json(_one.dump_json(await _database(request).run(user_id, tasks.replace_task, task_id, body)))


@router.patch(
    "/{task_id}",
    response_model=TaskRead,
    responses={200: _found, **contract.task_problems(*contract.OF_A_BODY, *contract.OF_AN_ID)},
    openapi_extra=contract.request_body(TaskUpdate, JSON, MERGE_PATCH),
)
async def update_task(request: Request, task_id: TaskId, user_id: CurrentUser, body: Patch) -> Response:
    """Change some fields of a task (JSON Merge Patch, RFC 7396).

    A field that you leave out keeps its value; null clears `description` and
    `due_at`.
    """
    check_names(request)
    return _json(_one.dump_json(await _database(request).run(user_id, tasks.update_task, task_id, body)))


@router.delete(
    "/{task_id}",
    status_code=204,
    response_class=Response,
    responses={
        204: {"description": "The task is deleted.", "headers": contract.headers("X-Request-ID")},
        **contract.task_problems(*contract.OF_AN_ID),
    },
)
async def delete_task(request: Request, task_id: TaskId, user_id: CurrentUser) -> Response:
    """Delete a task. A second time, it is not there any more: 404."""
    check_names(request)
    await _database(request).run(user_id, tasks.delete_task, task_id)
    return Response(status_code=204)


def _database(request: Request) -> Database:
    database: Database = request.app.state.database
    return database


def _json(body: bytes, status: int = 200) -> Response:
    return Response(body, status, media_type="application/json")


def _page(tasks: list[TaskRead]) -> tuple[bytes, int]:
    """The JSON of the tasks that fit into a page, at least one, and how many these are."""
    body = _many.dump_json(tasks)
    if len(body) <= PAGE_BYTES:
        return body, len(tasks)
    # Each with its comma or the closing bracket; the opening bracket makes it "less than".
    ends = accumulate(len(_one.dump_json(task)) + 1 for task in tasks)
    count = max(1, sum(end < PAGE_BYTES for end in ends))
    return _many.dump_json(tasks[:count]), count


def _position(cursor: str, user_id: str, completed: bool | None) -> UUID:
    try:
        return cursors.decode(cursor, user_id, completed)
    except cursors.InvalidCursor:
        raise ProblemError(INVALID_CURSOR, "This cursor is not one of this list.") from None
