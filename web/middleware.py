"""ASGI middleware: request ID, access log, response headers, CORS, and the last resort for errors.

Outermost first: RequestContextMiddleware, CorsMiddleware, CatchAllMiddleware. None is
built on Starlette's BaseHTTPMiddleware, which costs more than the handlers do.
"""

import logging
import random
import re
import time

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from observability.request_context import RequestInfo, current, current_request
from observability.tracing import request_span
from problems import CORS_REFUSED, ProblemError, internal_error, response
from web.caching import cache_headers

access = logging.getLogger("access")
log = logging.getLogger(__name__)

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")

EXPOSED_HEADERS = (
    "Allow",
    "Link",
    "Location",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "Server-Timing",
    "WWW-Authenticate",
    "X-Request-ID",
)
ALLOWED_HEADERS = ("Authorization", "Content-Type", "X-Request-ID")
ALLOWED_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")

_CSP = b"content-security-policy"

# https://cheatsheetseries.owasp.org/cheatsheets/REST_Security_Cheat_Sheet.html#security-headers
_SECURITY_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"strict-transport-security", b"max-age=63072000; includeSubDomains"),
    (
        b"permissions-policy",
        b"accelerometer=(), camera=(), geolocation=(), gyroscope=(), microphone=(), payment=(), usb=()",
    ),
]
_NO_CONTENT_SOURCES = (_CSP, b"default-src 'none'; frame-ancestors 'none'")


class PreflightRefused(ProblemError):
    """A browser asked for an origin, method or header that is not allowed."""


class RequestContextMiddleware:
    """Gives the request its ID, the response its headers, and the log its line.

    HEAD is answered as GET is, without the body (RFC 9110, section 9.3.2).
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        method = scope["method"]
        if method == "HEAD":
            scope["method"] = "GET"
        request = RequestInfo(_request_id(scope), request_span(scope["query_string"]))
        current_request.set(request)
        status: int | None = None

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers: list[tuple[bytes, bytes]] = list(message["headers"])
                headers.append((b"x-request-id", request.request_id.encode()))
                headers += _SECURITY_HEADERS
                headers += cache_headers(scope)
                # Not on errors: timing would distinguish another user's task from a missing one.
                if request.wait and status < 400:
                    headers.append((b"server-timing", _server_timing(request)))
                if all(name != _CSP for name, _ in headers):
                    headers.append(_NO_CONTENT_SOURCES)
                message["headers"] = headers
            elif method == "HEAD":
                message["body"] = b""
            await send(message)

        try:
            await self.app(scope, receive, send_with_headers)
        finally:
            for callback in request.at_end:
                callback()
            route = scope.get("route")
            access.info(
                "request",
                extra={
                    "method": method,
                    "route": getattr(route, "path", None),
                    "status": status,
                    "duration_ms": round((time.perf_counter() - started) * 1000, 2),
                    "user_id": request.user_id,
                },
            )


class CorsMiddleware(CORSMiddleware):
    """Starlette's, with this service's answers to a preflight: 204, or a problem."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except PreflightRefused as refused:
            await response(current().request_id, refused)(scope, receive, send)

    def preflight_response(self, request_headers: Headers) -> Response:
        answer = super().preflight_response(request_headers)
        headers = {name: value for name, value in answer.headers.items() if not name.startswith("content-")}
        if answer.status_code >= 400:
            raise PreflightRefused(CORS_REFUSED, "This preflight is not allowed.", headers=headers)
        return Response(status_code=204, headers=headers)


class CatchAllMiddleware:
    """Turns an exception without a handler into a 500 that does not reveal its cause."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def watch(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, watch)
        except Exception:
            log.exception("unhandled exception")
            if started:
                raise
            await response(current().request_id, internal_error())(scope, receive, send)


def _server_timing(request: RequestInfo) -> bytes:
    """In milliseconds, to a tenth: https://www.w3.org/TR/server-timing/."""
    return f"db;dur={request.database * 1000:.1f}, wait;dur={request.wait * 1000:.1f}".encode()


def _request_id(scope: Scope) -> str:
    given: list[bytes] = [value for name, value in scope["headers"] if name == b"x-request-id"]
    if len(given) == 1 and _REQUEST_ID.fullmatch(given[0]):
        return given[0].decode()
    # It is no secret; a uuid4 would ask the system, and give up the interpreter meanwhile.
    return f"{random.getrandbits(128):032x}"
