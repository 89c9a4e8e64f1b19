"""Rate limits: requests per user, 401 responses per client address, lists in progress.

Windows are fixed. They are counted in this process, or by the `limits` package in
a Redis that all processes share.
"""

import hashlib
import ipaddress
import logging
import math
import time
from array import array
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

from limits import RateLimitItem, WindowStats
from limits.aio.storage import RedisStorage
from limits.aio.strategies import FixedWindowRateLimiter
from limits.errors import StorageError
from starlette.requests import HTTPConnection, Request

from observability import request_context
from problems import TOO_MANY_REQUESTS, ProblemError
from settings import Settings

if TYPE_CHECKING:
    from redis.asyncio import ConnectionPool

REDIS_SECONDS = 0.25
"""How long a request waits for Redis before the process falls back to its own windows."""

PAUSE_SECONDS = 5.0
"""How long a process counts in memory after a Redis failure before it tries Redis again."""

MAX_WINDOWS = 32_768
"""How many windows the process keeps for each limit: 9 MB for addresses."""

LONG_KEY = 40
"""Keys of at least this length are stored as SHA-256 hex digests, which no shorter key can equal."""

LISTS_IN_PROGRESS, BATCHES_IN_PROGRESS, WAITS_IN_PROGRESS = 20, 4, 10
"""Per user and process. A browser opens 6 connections to an origin over HTTP/1.1."""

log = logging.getLogger(__name__)

T = TypeVar("T")


class RateLimit:
    """A named limit; the name appears in its response headers."""

    def __init__(self, name: str, rate: RateLimitItem, counters: "Counters") -> None:
        self._name = name
        self._rate = rate
        self._counters = counters
        self._window = rate.get_expiry()

    async def hit(self, key: str, cost: int = 1) -> None:
        """Count `cost` requests of `key`; raises a 429 problem when the last is over the limit."""
        if cost == 0 or await self._counters.hit(self._rate, self._name, key, cost):
            return
        reset = await self._counters.reset_after(self._rate, self._name, key)
        raise ProblemError(
            TOO_MANY_REQUESTS,
            "The rate limit was exceeded.",
            headers={
                "Retry-After": str(reset),
                "RateLimit-Policy": f'"{self._name}";q={self._rate.amount};w={self._window}',
                "RateLimit": f'"{self._name}";r=0;t={reset}',
            },
        )


class ConcurrencyLimit:
    """Maximum number of requests of a kind that one user has in progress in this process.

    A request is in progress until its response has been sent. If the client reads slowly
    or not at all, that lasts as long as the connection.
    """

    def __init__(self, kind: str, most: int) -> None:
        """`kind` is what the requests are for, in the plural."""
        self._kind = kind
        self._most = most
        self._running: Counter[str] = Counter()

    def enter(self, key: str) -> None:
        """Count a request until it ends; raises a 429 problem when there are too many."""
        if self._running[key] >= self._most:
            name = f"concurrent-{self._kind}"
            raise ProblemError(
                TOO_MANY_REQUESTS,
                f"{self._most} of your requests for {self._kind} are in progress. Wait until one has ended.",
                headers={
                    "Retry-After": "1",
                    "RateLimit-Policy": f'"{name}";q={self._most};qu="concurrent-requests"',
                    "RateLimit": f'"{name}";r=0;t=1',
                },
            )
        self._running[key] += 1
        request_context.current().at_end.append(partial(self._leave, key))

    def _leave(self, key: str) -> None:
        self._running[key] -= 1
        if not self._running[key]:
            del self._running[key]


class Windows(Protocol):
    """The part of a `limits` strategy that is used here."""

    async def hit(self, item: RateLimitItem, name: str, key: str, /, *, cost: int = 1) -> bool: ...

    async def get_window_stats(self, item: RateLimitItem, name: str, key: str, /) -> WindowStats: ...


class FixedWindows:
    """The windows of one limit, in a ring buffer of `size` slots.

    A new window overwrites the oldest one, whether or not that has ended, so memory is
    bounded and no sweep is needed. Slots are parallel arrays rather than objects, which
    the garbage collector would traverse.
    """

    def __init__(self, size: int) -> None:
        self._slots: dict[str, int] = {}
        self._keys = [""] * size
        self._ends = array("d", [0.0]) * size
        self._hits = array("Q", [0]) * size
        self._next = 0

    def hit(self, key: str, seconds: int, cost: int) -> int:
        """Count `cost` hits of `key` and return the hits in its window. Windows last `seconds`."""
        now = time.time()
        slot = self._slots.get(key)
        if slot is None or self._ends[slot] <= now:
            slot = self._begin(key, now + seconds)
        self._hits[slot] = hits = self._hits[slot] + cost
        return hits

    def window(self, key: str) -> tuple[float, int]:
        """When the window of `key` ends, and its hits; for an unknown key it ends now."""
        slot = self._slots.get(key)
        return (time.time(), 0) if slot is None else (self._ends[slot], self._hits[slot])

    def _begin(self, key: str, ends_at: float) -> int:
        slot = self._next
        self._next = (slot + 1) % len(self._keys)
        replaced = self._keys[slot]
        if self._slots.get(replaced) == slot:  # Otherwise it has a newer window in another slot.
            del self._slots[replaced]
        self._slots[key] = slot
        self._keys[slot] = key
        self._ends[slot] = ends_at
        self._hits[slot] = 0
        return slot


class LocalWindows:
    """In-process fixed windows, one ring buffer per limit so that limits do not evict each other.

    The memory storage of `limits` is unbounded, and visits every key at each hit: 150 µs
    for 1,000 users of the last minute.
    """

    def __init__(self, size: int = MAX_WINDOWS) -> None:
        self._limits = defaultdict[str, FixedWindows](partial(FixedWindows, size))

    async def hit(self, item: RateLimitItem, name: str, key: str, /, *, cost: int = 1) -> bool:
        if len(key) >= LONG_KEY:
            key = _digest(key)
        return self._limits[name].hit(key, item.get_expiry(), cost) <= item.amount

    async def get_window_stats(self, item: RateLimitItem, name: str, key: str, /) -> WindowStats:
        if len(key) >= LONG_KEY:
            key = _digest(key)
        ends_at, hits = self._limits[name].window(key)
        return WindowStats(ends_at, max(0, item.amount - hits))


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


class Counters:
    """Counts hits in the shared storage, or in the process while that is unavailable."""

    def __init__(self, url: str) -> None:
        self._local = LocalWindows()
        self._shared: FixedWindowRateLimiter | None = None
        self._shared_again_at = 0.0
        self._redis: ConnectionPool | None = None
        if not url.startswith("memory:"):
            self._redis, self._shared = _in_redis(url)

    async def close(self) -> None:
        if self._redis is not None:
            await self._redis.aclose()

    async def hit(self, rate: RateLimitItem, name: str, key: str, cost: int) -> bool:
        """Whether these hits are within the rate."""
        return await self._ask(lambda windows: windows.hit(rate, name, key, cost=cost))

    async def reset_after(self, rate: RateLimitItem, name: str, key: str) -> int:
        """Whole seconds until the window ends, at least 1."""
        stats = await self._ask(lambda windows: windows.get_window_stats(rate, name, key))
        return max(1, math.ceil(stats.reset_time - time.time()))

    async def _ask(self, question: Callable[[Windows], Awaitable[T]]) -> T:
        """Ask the shared storage, or this process's windows while it is unavailable."""
        if self._shared is not None and time.monotonic() >= self._shared_again_at:
            try:
                return await question(self._shared)
            except StorageError as error:
                self._shared_again_at = time.monotonic() + PAUSE_SECONDS
                cause = type(error.storage_error).__name__
                log.warning("The rate limit storage does not answer: %s", cause)
        return await question(self._local)


def _in_redis(url: str) -> "tuple[ConnectionPool, FixedWindowRateLimiter]":
    """Imports redis only when it is used: it takes 6 MB in each worker."""
    from redis.asyncio import ConnectionPool  # noqa: PLC0415

    connections = ConnectionPool.from_url(
        url, socket_timeout=REDIS_SECONDS, socket_connect_timeout=REDIS_SECONDS
    )
    storage = RedisStorage(
        f"async+{url}",
        wrap_exceptions=True,
        implementation="redispy",
        connection_pool=connections,  # type: ignore[arg-type]
    )
    return connections, FixedWindowRateLimiter(storage)


class RateLimits:
    """The limits of the service, and the client address that they count by."""

    def __init__(self, settings: Settings) -> None:
        self._counters = Counters(settings.rate_limit_storage_url.get_secret_value())
        self.requests = RateLimit("requests", settings.rate_limit_requests, self._counters)
        self.failures = RateLimit("auth-failures", settings.rate_limit_auth_failures, self._counters)
        self.lists = ConcurrencyLimit("lists", LISTS_IN_PROGRESS)
        self.waits = ConcurrencyLimit("waits", WAITS_IN_PROGRESS)
        self.batches = ConcurrencyLimit("batches", BATCHES_IN_PROGRESS)
        self._hops = settings.trusted_proxy_hops

    async def close(self) -> None:
        await self._counters.close()

    def address(self, connection: HTTPConnection) -> str:
        """The client's address, as far as it can be trusted.

        Each proxy appends its peer's address to X-Forwarded-For, so entries left of those
        by the TRUSTED_PROXY_HOPS trusted proxies can be forged. An IPv6 client controls a
        whole /64, which counts as one address.
        """
        peer = connection.client.host if connection.client else ""
        if self._hops:
            forwarded = _forwarded_for(connection.headers.getlist("x-forwarded-for"))
            if len(forwarded) >= self._hops:
                return _network(forwarded[-self._hops]) or _network(peer) or peer
        return _network(peer) or peer


def rate_limits(request: Request) -> RateLimits:
    """Those of the process."""
    limits: RateLimits = request.app.state.rate_limits
    return limits


def _forwarded_for(values: Sequence[str]) -> list[str]:
    return [entry.strip() for value in values for entry in value.split(",")]


def _network(address: str) -> str | None:
    try:
        parsed = ipaddress.ip_address(address.strip("[]"))
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((int(parsed), 64), strict=False))
