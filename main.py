"""Application factory: wires routes, middleware, exception handlers and lifespan.

`gunicorn main:app` serves `app`. Importing this module has no side effects: settings are
read when `app` is first accessed, and connections are opened by the running application.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cache

from fastapi import FastAPI

from auth.rate_limits import RateLimits
from auth.tokens import TokenVerifier
from db import Database
from observability import logs
from routes import account, batch, changes, docs, health, tasks
from services.waiting import WaitingRoom
from settings import Settings
from web import errors, openapi
from web.cors import PreflightMiddleware
from web.middleware import RequestContextMiddleware


def create_app(settings: Settings) -> FastAPI:
    app = FastAPI(
        title="Tasks API",
        version=openapi.VERSION,
        summary="A multi-user task backend for a Better Auth frontend.",
        description=openapi.DESCRIPTION,
        lifespan=_lifespan,
        redirect_slashes=False,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        telemetry={
            # Enabled by OTEL_EXPORTER_OTLP_ENDPOINT, disabled by OTEL_SDK_DISABLED=true.
            "auto_configure": True,
            # Log records would carry exception messages, which contain values.
            "logs": False,
            # Three more spans per request: dependencies, endpoint, serialization.
            "operation_spans": False,
        },
    )
    for routes in (batch, changes, tasks, account, health, docs):
        app.include_router(routes.router)
    app.state.settings = settings
    app.openapi = cache(lambda: openapi.document(app))  # type: ignore[method-assign]
    # The last middleware added is the outermost.
    app.add_middleware(PreflightMiddleware, origins=settings.cors_origins)
    app.add_middleware(RequestContextMiddleware, cors_origins=settings.cors_origins)
    errors.install(app)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings: Settings = app.state.settings
    async with AsyncExitStack() as stack:
        database = Database(settings)
        for name, part in (
            ("rate_limits", RateLimits(settings)),
            ("token_verifier", TokenVerifier(settings)),
            ("database", database),
            ("waiting_room", WaitingRoom(database, settings.max_waiting_requests)),
        ):
            setattr(app.state, name, part)
            stack.push_async_callback(part.close)
        yield


def __getattr__(name: str) -> FastAPI:
    """`main:app`, built on first access, so that importing this module has no side effects."""
    if name != "app":
        raise AttributeError(name)
    return _configured_app()


@cache
def _configured_app() -> FastAPI:
    settings = Settings.load()
    logs.configure(settings.log_level)
    return create_app(settings)
