"""Liveness and readiness, for the platform that runs the service."""

from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel

import contract
import problems
from db import Database

router = APIRouter(prefix="/health", tags=["health"], generate_unique_id_function=contract.operation_id)


class Health(BaseModel):
    status: Literal["live", "ready"]


@router.get(
    "/live",
    responses={
        200: contract.success("It runs.", example={"status": "live"}),
        500: contract.problem(problems.INTERNAL_ERROR),
        503: contract.problem(problems.UNAVAILABLE),
    },
)
async def live(request: Request) -> Health:
    """Whether the process can work. Touches nothing; ask as often as you like.

    503 means that only a restart helps: all database threads are stuck.
    """
    database: Database = request.app.state.database
    if database.is_stuck():
        raise problems.unavailable("All database threads are stuck. Restart this process.")
    return Health(status="live")


@router.get(
    "/ready",
    responses={
        200: contract.success("It can serve.", example={"status": "ready"}),
        500: contract.problem(problems.INTERNAL_ERROR),
        503: contract.problem(problems.UNAVAILABLE),
    },
)
async def ready(request: Request) -> Health:
    """Whether the database can be served from: there, migrated, and guarded by row security.

    On Neon this keeps the compute awake; for a frequent check use `/health/live`.
    """
    database: Database = request.app.state.database
    await database.check_ready()
    return Health(status="ready")
