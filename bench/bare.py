"""FastAPI with nothing on it: the floor's work behind one dependency and a route.

It shows what the framework alone leaves of the floor, before any validation,
limit, log line or header of the service.
"""

import asyncio
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from uuid_utils.compat import uuid7

from bench.floor import CREATE, DELETE, GET, LIST, NEW, UPDATE, ask, threads, user_of

app = FastAPI(openapi_url=None)


async def get_current_user(request: Request) -> str:
    user = user_of(request.scope["headers"])
    if user is None:
        raise HTTPException(401)
    return user


User = Annotated[str, Depends(get_current_user)]


async def answer(statement: str, status: int = 200, **parameters: object) -> Response:
    found = await asyncio.get_running_loop().run_in_executor(threads, ask, statement, parameters)
    if found is None:
        raise HTTPException(404)
    return Response(found, status, media_type="application/json")


@app.get("/api/tasks")
async def list_tasks(user: User, limit: int = 50) -> Response:
    return await answer(LIST, user=user, limit=limit)


@app.post("/api/tasks")
async def create_task(request: Request, user: User) -> Response:
    return await answer(CREATE, 201, user=user, id=str(uuid7()), **NEW | await request.json())


@app.get("/api/tasks/{task_id}")
async def get_task(task_id: str, user: User) -> Response:
    return await answer(GET, user=user, id=task_id)


@app.patch("/api/tasks/{task_id}")
async def update_task(task_id: str, request: Request, user: User) -> Response:
    return await answer(UPDATE, user=user, id=task_id, **await request.json())


@app.delete("/api/tasks/{task_id}")
async def delete_task(task_id: str, user: User) -> Response:
    return await answer(DELETE, 204, user=user, id=task_id)


@app.get("/health/ready")
async def ready() -> dict[str, str]:
    return {"status": "ready"}
