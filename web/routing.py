"""The route class of operations on users' data: strict query names, and private caching."""

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ClassVar

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.types import Scope

from web.parameters import check_query_names

Headers = list[tuple[bytes, bytes]]

NO_STORE: Headers = [(b"cache-control", b"no-store")]


class UserDataRoute(APIRoute):
    """`APIRouter(route_class=UserDataRoute)`.

    Unknown and repeated query parameters are rejected. A dependency of the router would do
    the same, at 12 µs for each request. Responses differ by user, and caches revalidate them.
    """

    cache_headers: ClassVar[Headers] = [
        (b"cache-control", b"private, no-cache"),
        (b"vary", b"Authorization"),
    ]

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle: Callable[[Request], Awaitable[Response]] = super().get_route_handler()

        async def check_and_handle(request: Request) -> Response:
            if request.scope["query_string"]:
                await check_query_names(request)
            return await handle(request)

        return check_and_handle


def cache_headers(scope: Scope) -> Headers:
    """What the matched route declares; `no-store` without a route or a declaration."""
    return getattr(scope.get("route"), "cache_headers", NO_STORE)
