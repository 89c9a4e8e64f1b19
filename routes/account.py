"""The HTTP contract of /api/account: everything that the service stores about the caller."""

from collections.abc import AsyncIterator
from uuid import UUID

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from auth.bearer import CurrentUser
from auth.rate_limits import rate_limits
from db import Database, RequestDatabase
from observability import request_context
from schemas import TaskRead, task_json
from services import account
from services.lists import PAGE_BYTES
from web import openapi
from web.routing import UserDataRoute

PIECE_BYTES = 64 * 1024

router = APIRouter(
    prefix="/api/account",
    tags=["account"],
    route_class=UserDataRoute,
    responses=openapi.problems_of(*openapi.COMMON_PROBLEMS),
    generate_unique_id_function=openapi.operation_id,
)


@router.delete(
    "",
    status_code=204,
    response_class=Response,
    responses={204: openapi.no_content("Nothing is stored about you any more.")},
)
async def erase_account(user_id: CurrentUser, database: RequestDatabase) -> Response:
    """Delete your account here: all your tasks and everything else, for good.

    Your sign-in at the frontend is not affected. Deleting again is 204, too.
    """
    while not await database.write(user_id, account.erase):
        pass
    return Response(status_code=204)


@router.get(
    "/export",
    response_class=StreamingResponse,
    responses={200: openapi.lines("All your tasks, deleted or not: a JSON object in each line.")},
)
async def export_account(request: Request, user_id: CurrentUser, database: RequestDatabase) -> Response:
    """Export your account: all your tasks, including deleted ones, as newline-delimited JSON.

    If the connection ends before the body does, the export is incomplete: request it again.
    """
    rate_limits(request).lists.enter(user_id)
    # Before the response begins, so that an error is still a problem.
    page = await database.run(user_id, account.export_tasks, None)
    return StreamingResponse(
        _lines(database, user_id, page),
        media_type="application/x-ndjson",
        headers={"Content-Disposition": 'attachment; filename="tasks.ndjson"'},
    )


async def _lines(database: Database, user_id: str, page: list[TaskRead]) -> AsyncIterator[bytes]:
    """In pieces that a slow client can read before its connection times out."""
    while page:
        lines, last = b"".join(task_json(task) + b"\n" for task in page), UUID(page[-1].id)
        more = len(page) == account.EXPORTED_AT_ONCE or len(lines) > PAGE_BYTES
        page = []  # Not kept while the client reads.
        for start in range(0, len(lines), PIECE_BYTES):
            yield lines[start : start + PIECE_BYTES]
        if more and request_context.current().wants_body:
            page = await database.run(user_id, account.export_tasks, last)
