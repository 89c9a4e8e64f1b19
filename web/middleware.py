"""The outermost ASGI middleware: request ID, response headers, access log, catch-all 500.

Not built on Starlette's BaseHTTPMiddleware, whose overhead exceeds that of the handlers.
"""

import logging
import random
import re
import time
from collections.abc import Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from observability.request_context import RequestInfo, current_request
from observability.tracing import request_span
from problems import internal_error, response
from web.cors import headers_by_origin
from web.routing import cache_headers

access = logging.getLogger("access")
log = logging.getLogger(__name__)

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")

# https://cheatsheetseries.owasp.org/cheatsheets/REST_Security_Cheat_Sheet.html#security-headers
_COMMON_HEADERS = [
    (b"vary", b"Origin"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"strict-transport-security", b"max-age=63072000; includeSubDomains"),
    (
        b"permissions-policy",
        b"accelerometer=(), camera=(), geolocation=(), gyroscope=(), microphone=(), payment=(), usb=()",
    ),
]
_NO_CONTENT_SOURCES = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")


class RequestContextMiddleware:
    """Assigns the request ID, adds response headers, and writes the access log line.

    An exception without a handler becomes a 500 that does not reveal its cause. HEAD is
    handled as GET, without the body (RFC 9110, section 9.3.2).
    """

    def __init__(self, app: ASGIApp, cors_origins: Iterable[str]) -> None:
        self.app = app
        self._cors_headers = headers_by_origin(cors_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        method = scope["method"]
        if method == "HEAD":
            scope["method"] = "GET"
        request = RequestInfo(_request_id(scope), request_span(scope["query_string"]), method != "HEAD")
        current_request.set(request)
        status: int | None = None

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = self._headers(scope, request, message)
            elif method == "HEAD":
                message["body"] = b""
            await send(message)

        try:
            await self.app(scope, receive, send_with_headers)
        except Exception:
            log.exception("unhandled exception")
            if status is not None:
                raise
            await response(request.request_id, internal_error())(scope, receive, send_with_headers)
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

    def _headers(self, scope: Scope, request: RequestInfo, message: Message) -> list[tuple[bytes, bytes]]:
        headers: list[tuple[bytes, bytes]] = list(message["headers"])
        own = [name for name, _ in headers]
        headers.append((b"x-request-id", request.request_id.encode()))
        headers += _COMMON_HEADERS
        if b"cache-control" not in own:
            headers += cache_headers(scope)
        headers += self._cors_headers.get(_header(scope, b"origin"), ())
        # Not on errors: timing would distinguish another user's task from a missing one.
        if request.wait and message["status"] < 400:
            headers.append((b"server-timing", _server_timing(request)))
        if b"content-security-policy" not in own:
            headers.append(_NO_CONTENT_SOURCES)
        return headers


def _server_timing(request: RequestInfo) -> bytes:
    """In milliseconds, to a tenth: https://www.w3.org/TR/server-timing/."""
    return f"db;dur={request.database * 1000:.1f}, wait;dur={request.wait * 1000:.1f}".encode()


def _header(scope: Scope, wanted: bytes) -> bytes:
    """The first header of this name, or nothing."""
    return next((value for name, value in scope["headers"] if name == wanted), b"")


def _request_id(scope: Scope) -> str:
    given: list[bytes] = [value for name, value in scope["headers"] if name == b"x-request-id"]
    if len(given) == 1 and _REQUEST_ID.fullmatch(given[0]):
        return given[0].decode()
    # Not a secret. uuid4() would make a system call, which releases the GIL.
    return f"{random.getrandbits(128):032x}"
