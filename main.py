"""The application: what `gunicorn main:app` serves.

Puts the parts together and holds nothing else. Importing this module reads no
setting and opens no connection; asking it for `app` does.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cache

from fastapi import FastAPI

import contract
import handlers
import logs
from auth import Authenticator
from db import Database
from middleware import (
    ALLOWED_HEADERS,
    ALLOWED_METHODS,
    EXPOSED_HEADERS,
    Cors,
    RequestContext,
    Unforeseen,
)
from rate_limits import RateLimits
from routes import health, pages, tasks
from settings import Settings


def create_app(settings: Settings) -> FastAPI:
    app = FastAPI(
        title="Tasks API",
        version=contract.VERSION,
        summary="A multi-user task backend for a Better Auth frontend.",
        description=contract.DESCRIPTION,
        lifespan=_lifespan,
        # An included router would match each request twice. These know nothing of
        # `dependency_overrides`, which nothing here uses.
        routes=[*tasks.router.routes, *health.router.routes, *pages.router.routes],
        redirect_slashes=False,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        telemetry={
            # OTEL_EXPORTER_OTLP_ENDPOINT alone switches it on, OTEL_SDK_DISABLED=true off.
            "auto_configure": True,
            # Log records would carry exception messages, which contain values.
            "logs": False,
            # Three more spans per request: dependencies, endpoint, serialization.
            "operation_spans": False,
        },
    )
    app.state.settings = settings
    app.openapi = cache(lambda: contract.document(app))  # type: ignore[method-assign]
    # The last one added is the outermost.
    app.add_middleware(Unforeseen)
    app.add_middleware(
        Cors,
        allow_origins=settings.cors_origins,
        allow_credentials=True,
        allow_methods=ALLOWED_METHODS,
        allow_headers=ALLOWED_HEADERS,
        expose_headers=EXPOSED_HEADERS,
    )
    app.add_middleware(RequestContext)
    handlers.install(app)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings: Settings = app.state.settings
    async with AsyncExitStack() as stack:
        for name, part in (
            ("limits", RateLimits(settings)),
            ("authenticator", Authenticator(settings)),
            ("database", Database(settings)),
        ):
            setattr(app.state, name, part)
            stack.push_async_callback(part.close)
        yield


def __getattr__(name: str) -> FastAPI:
    """`main:app`, built when a server first asks for it, so that importing has no effects."""
    if name != "app":
        raise AttributeError(name)
    return _configured_app()


@cache
def _configured_app() -> FastAPI:
    settings = Settings.load()
    logs.configure(settings.log_level)
    return create_app(settings)
