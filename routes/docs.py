"""Documentation for developers: problem types, the OpenAPI document and /docs."""

from typing import Annotated

from fastapi import APIRouter, FastAPI, Path, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, StreamingResponse

import problems
from web import docs_page, openapi

router = APIRouter(generate_unique_id_function=openapi.operation_id)

# The names are in the contract as an enum, but an unknown one is 404, not 422.
_NAME = Path(
    description="The last part of a problem's `type`.", json_schema_extra={"enum": [*problems.TYPES]}
)


@router.get(
    "/problems/{name}",
    tags=["problems"],
    response_class=PlainTextResponse,
    responses={
        200: {"description": "The explanation.", "headers": openapi.headers("X-Request-ID")},
        404: openapi.problem(problems.NOT_FOUND),
        500: openapi.problem(problems.INTERNAL_ERROR),
    },
)
async def explain_problem(name: Annotated[str, _NAME]) -> PlainTextResponse:
    """What a problem type means and what to do about it."""
    kind = problems.TYPES.get(name)
    if kind is None:
        raise problems.ProblemError(problems.NOT_FOUND, "There is no problem type with this name.")
    return PlainTextResponse(f"{kind.title} ({kind.status})\n\n{kind.explanation}\n")


@router.get("/openapi.json", include_in_schema=False)
async def document(request: Request) -> Response:
    app: FastAPI = request.app
    return JSONResponse(app.openapi())


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> HTMLResponse:
    page = docs_page.page(request.app.title)
    return HTMLResponse(page, headers={"Content-Security-Policy": docs_page.CSP})


@router.get(f"{docs_page.PREFIX}/{{digest}}/{{name}}", include_in_schema=False)
async def docs_asset(digest: str, name: str) -> StreamingResponse:
    asset = docs_page.assets().get(f"{docs_page.PREFIX}/{digest}/{name}")
    if asset is None:
        raise problems.ProblemError(problems.NOT_FOUND, "There is no asset with this name.")
    headers = {"Content-Length": str(len(asset.content)), "Cache-Control": docs_page.CACHE_CONTROL}
    return StreamingResponse(asset.pieces(), media_type=asset.media_type, headers=headers)
