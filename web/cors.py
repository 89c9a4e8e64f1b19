"""CORS: the headers that let a page on an allowed origin read a response, and preflights.

https://fetch.spec.whatwg.org/#http-cors-protocol
"""

from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from observability import request_context
from problems import CORS_REFUSED, ProblemError, response

EXPOSED_HEADERS = (
    "Allow",
    "ETag",
    "Idempotency-Replayed",
    "Link",
    "Location",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "Server-Timing",
    "Tasks-Position",
    "WWW-Authenticate",
    "X-Request-ID",
)
ALLOWED_HEADERS = (
    "Authorization",
    "Content-Type",
    "Idempotency-Key",
    "If-Match",
    "If-None-Match",
    "X-Request-ID",
)
ALLOWED_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


def headers_by_origin(origins: Iterable[str]) -> dict[bytes, list[tuple[bytes, bytes]]]:
    """The headers of every response to a request from each of these origins."""
    return {
        origin.encode(): [
            (b"access-control-allow-origin", origin.encode()),
            (b"access-control-allow-credentials", b"true"),
            (b"access-control-expose-headers", ", ".join(EXPOSED_HEADERS).encode()),
        ]
        for origin in origins
    }


class PreflightRefused(ProblemError):
    """The preflight names an origin, method or header that is not allowed."""


class PreflightMiddleware(CORSMiddleware):
    """Responds to preflights by Starlette's rules, with 204 or a problem; passes on other requests."""

    def __init__(self, app: ASGIApp, origins: Iterable[str]) -> None:
        super().__init__(
            app,
            allow_origins=tuple(origins),
            allow_credentials=True,
            allow_methods=ALLOWED_METHODS,
            allow_headers=ALLOWED_HEADERS,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "OPTIONS":
            await self.app(scope, receive, send)
            return
        try:
            await super().__call__(scope, receive, send)
        except PreflightRefused as refused:
            await response(request_context.current().request_id, refused)(scope, receive, send)

    async def simple_response(
        self, scope: Scope, receive: Receive, send: Send, request_headers: Headers
    ) -> None:
        await self.app(scope, receive, send)

    def preflight_response(self, request_headers: Headers) -> Response:
        answer = super().preflight_response(request_headers)
        # RequestContextMiddleware adds the CORS and Vary headers that are dropped here.
        dropped = ("content-", "access-control-allow-origin", "access-control-allow-credentials", "vary")
        headers = {name: value for name, value in answer.headers.items() if not name.startswith(dropped)}
        if answer.status_code >= 400:
            raise PreflightRefused(CORS_REFUSED, "This preflight is not allowed.", headers=headers)
        return Response(status_code=204, headers=headers)
