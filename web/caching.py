"""Which caches may keep a response: declared by the router, through its route class."""

from typing import ClassVar

from fastapi.routing import APIRoute
from starlette.types import Scope

Headers = list[tuple[bytes, bytes]]

NO_STORE: Headers = [(b"cache-control", b"no-store")]


class PrivateRoute(APIRoute):
    """`APIRouter(route_class=PrivateRoute)`: responses differ by user, and are revalidated."""

    cache_headers: ClassVar[Headers] = [(b"cache-control", b"private, no-cache"), (b"vary", b"Authorization")]


def cache_headers(scope: Scope) -> Headers:
    """What the matched route declares; `no-store` without a route or a declaration."""
    return getattr(scope.get("route"), "cache_headers", NO_STORE)
