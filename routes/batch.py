"""The HTTP contract of POST /api/tasks/batch."""

from collections.abc import Iterable, Mapping
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from auth.bearer import CurrentUser
from auth.rate_limits import rate_limits
from db import RequestDatabase
from observability import request_context
from problems import (
    BATCH_FAILED,
    INVALID_IDEMPOTENCY_KEY,
    INVALID_REQUEST,
    PRECONDITION_FAILED,
    PRECONDITION_REQUIRED,
    TASK_EXISTS,
    ProblemError,
    ProblemItem,
    document,
    encoded,
)
from schemas import Batch, BatchCreate, BatchResults, task_json
from services.batch import REFUSED, BatchFailed, Outcome, Result, apply_batch
from web import openapi
from web.errors import NO_SUCH_TASK, OTHER_TASK, QUOTA_IS_REACHED
from web.idempotency import KEY_PATTERN, idempotency_key
from web.json_bodies import JSON, MAXIMUM_BATCH_BYTES, json_body
from web.routing import UserDataRoute, refuse_other_methods

OTHER_METHODS = ["GET", "PUT", "PATCH", "DELETE"]

router = APIRouter(
    prefix="/api/tasks/batch",
    tags=["tasks"],
    route_class=UserDataRoute,
    responses=openapi.problems_of(*openapi.COMMON_PROBLEMS),
    generate_unique_id_function=openapi.operation_id,
)

_STATUSES: Mapping[Outcome, int] = {"create": 201, "update": 200, "restore": 200, "same": 200, "delete": 204}
_PROBLEMS: Mapping[Outcome, ProblemError] = {
    "missing": NO_SUCH_TASK,
    "exists": ProblemError(TASK_EXISTS, OTHER_TASK),
    "changed": ProblemError(PRECONDITION_FAILED, "if_version is not the current version of the task."),
    "quota": QUOTA_IS_REACHED,
}


async def one_of_few(request: Request, user_id: CurrentUser) -> None:
    """Dependency, before the body is read: limits the batches in progress."""
    rate_limits(request).batches.enter(user_id)


@router.post(
    "",
    response_model=BatchResults,
    responses={
        200: openapi.success(
            "What has become of each operation.",
            openapi.headers("Tasks-Position", "Idempotency-Replayed", required=False),
        ),
        **openapi.problems_of(
            INVALID_IDEMPOTENCY_KEY, *openapi.BODY_PROBLEMS, BATCH_FAILED, PRECONDITION_REQUIRED
        ),
    },
    openapi_extra=openapi.request_body(Batch, JSON)
    | {"parameters": [openapi.header("Idempotency-Key", pattern=KEY_PATTERN)]},
)
async def batch_tasks(
    request: Request,
    user_id: CurrentUser,
    _: Annotated[None, Depends(one_of_few)],
    body: Annotated[Batch, Depends(json_body(Batch, JSON, maximum=MAXIMUM_BATCH_BYTES))],
    database: RequestDatabase,
) -> Response:
    """Create, update, delete and restore up to 100 tasks at once.

    Each operation succeeds or fails by itself, unless the batch is `atomic`. Send an
    `Idempotency-Key` to be able to send the batch again when there was no response.
    """
    key = idempotency_key(request)
    _check_operations(body, conditional=request.app.state.settings.require_if_match)
    await rate_limits(request).requests.hit(user_id, len(body.operations) - 1)
    try:
        applied = await database.write(user_id, apply_batch, body, key)
    except BatchFailed as failed:
        raise _failed(failed.results) from None
    headers = {"Idempotency-Replayed": "true"} if applied.repeated else {}
    if applied.seq is not None:
        headers["Tasks-Position"] = str(applied.seq)
    results = b",".join(map(_result, applied.results))
    return Response(b'{"results":[%b]}' % results, headers=headers, media_type="application/json")


def _check_operations(batch: Batch, *, conditional: bool) -> None:
    """Raises a problem: 422 for a task in two operations, 428 for a change without its version."""
    seen = set()
    twice, unconditional = [], []
    for number, each in enumerate(batch.operations):
        if each.id in seen:
            pointer = f"/operations/{number}/id"
            twice.append(ProblemItem(detail="An earlier operation has the same ID.", pointer=pointer))
        if "id" in each.model_fields_set:
            seen.add(each.id)
        if conditional and not isinstance(each, BatchCreate) and "if_version" not in each.model_fields_set:
            unconditional.append(ProblemItem(detail="Send if_version.", pointer=f"/operations/{number}"))
    if twice:
        raise ProblemError(INVALID_REQUEST, "The body is not valid; see errors.", errors=twice)
    if unconditional:
        detail = "Send if_version with each update, delete and restore; see errors."
        raise ProblemError(PRECONDITION_REQUIRED, detail, errors=unconditional)


def _failed(results: Iterable[Result]) -> ProblemError:
    items = [
        ProblemItem(
            detail=_PROBLEMS[each.outcome].detail,
            pointer=f"/operations/{number}",
            type=f"/problems/{_PROBLEMS[each.outcome].kind.name}",
        )
        for number, each in enumerate(results)
        if each.outcome in REFUSED
    ]
    return ProblemError(BATCH_FAILED, "Nothing was changed; see errors.", errors=items)


def _result(result: Result) -> bytes:
    task = b"" if result.task is None else b',"task":%b' % task_json(result.task)
    refused = _PROBLEMS.get(result.outcome)
    if refused is None:
        return b'{"status":%d%b}' % (_STATUSES[result.outcome], task)
    problem = encoded(document(request_context.current().request_id, refused))
    return b'{"status":%d%b,"problem":%b}' % (refused.kind.status, task, problem)


refuse_other_methods(router, OTHER_METHODS)
