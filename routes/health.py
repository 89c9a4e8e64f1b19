"""Liveness and readiness, for the platform that runs the service."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel

import problems
from db import Database, get_database
from web import openapi

router = APIRouter(prefix="/health", tags=["health"], generate_unique_id_function=openapi.operation_id)


class Health(BaseModel):
    status: Literal["live", "ready"]


@router.get(
    "/live",
    responses={
        200: openapi.success("The process is live."),
        431: openapi.HEADERS_TOO_LARGE,
        500: openapi.problem(problems.INTERNAL_ERROR),
        503: openapi.problem(problems.UNAVAILABLE),
    },
)
async def live(database: Annotated[Database, Depends(get_database)]) -> Health:
    """Whether the process can serve requests. Does not query the database, so it is cheap to poll.

    503 means that all database threads are stuck and only a restart helps.
    """
    if database.is_stuck():
        raise problems.unavailable("All database threads are stuck. Restart this process.")
    return Health(status="live")


@router.get(
    "/ready",
    responses={
        200: openapi.success("The service is ready."),
        431: openapi.HEADERS_TOO_LARGE,
        500: openapi.problem(problems.INTERNAL_ERROR),
        503: openapi.problem(problems.UNAVAILABLE),
    },
)
async def ready(database: Annotated[Database, Depends(get_database)]) -> Health:
    """Whether the database is reachable, migrated and protected by row security.

    On Neon this keeps the compute awake; use `/health/live` for frequent checks.
    """
    await database.check_ready()
    return Health(status="ready")
