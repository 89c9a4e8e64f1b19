"""A minimal FastAPI app: the work of `raw_asgi_app` behind one dependency and one route per operation.

Shows what FastAPI alone costs compared with raw ASGI. It has no validation, rate
limits, logging or additional headers.
"""

import asyncio
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from uuid_utils.compat import uuid7

from bench.raw_asgi_app import (
    CREATE,
    DEFAULTS,
    DELETE,
    GET,
    LIST,
    UPDATE,
    authenticate,
    executor,
    fetch_json,
)

app = FastAPI(openapi_url=None)


async def get_current_user(request: Request) -> str:
    user = authenticate(request.scope["headers"])
    if user is None:
        raise HTTPException(401)
    return user


CurrentUser = Annotated[str, Depends(get_current_user)]


async def respond(statement: str, status: int = 200, **parameters: object) -> Response:
    body = await asyncio.get_running_loop().run_in_executor(executor, fetch_json, statement, parameters)
    if body is None:
        raise HTTPException(404)
    return Response(body, status, media_type="application/json")


@app.get("/api/tasks")
async def list_tasks(user: CurrentUser, limit: int = 50) -> Response:
    return await respond(LIST, user=user, limit=limit)


@app.post("/api/tasks")
async def create_task(request: Request, user: CurrentUser) -> Response:
    return await respond(CREATE, 201, user=user, id=str(uuid7()), **DEFAULTS | await request.json())


@app.get("/api/tasks/{task_id}")
async def get_task(task_id: str, user: CurrentUser) -> Response:
    return await respond(GET, user=user, id=task_id)


@app.patch("/api/tasks/{task_id}")
async def update_task(task_id: str, request: Request, user: CurrentUser) -> Response:
    return await respond(UPDATE, user=user, id=task_id, **await request.json())


@app.delete("/api/tasks/{task_id}")
async def delete_task(task_id: str, user: CurrentUser) -> Response:
    return await respond(DELETE, 204, user=user, id=task_id)


@app.get("/health/ready")
async def ready() -> dict[str, str]:
    return {"status": "ready"}
