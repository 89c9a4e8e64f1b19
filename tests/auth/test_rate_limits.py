"""Rate limits for requests and for authentication failures."""

import asyncio
import re
import sys
import time
import tracemalloc
import uuid
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import pytest
from httpx2 import Response
from limits import parse

from auth import rate_limits
from auth.rate_limits import MAX_WINDOWS, LocalWindows
from tests.chaos.servers import Redis, running_redis
from tests.conftest import Serve
from tests.factories import new_task
from tests.support import TASKS, Caller, assert_problem, assert_unauthorized, client_as

if TYPE_CHECKING:
    from _typeshed import TraceFunction


def assert_limited(response: Response, name: str, quantity: int, window: int) -> None:
    assert_problem(response, 429, "too-many-requests")
    assert response.headers["ratelimit-policy"] == f'"{name}";q={quantity};w={window}'
    match = re.fullmatch(rf'"{name}";r=0;t=(\d+)', response.headers["ratelimit"])
    assert match is not None
    assert response.headers["retry-after"] == match[1]
    assert max(1, window - 30) <= int(match[1]) <= window


def unique_user_id() -> str:
    return f"limited-{uuid.uuid4()}"


@pytest.mark.spec("limits.requests", "limits.headers")
def test_requests_are_limited_for_each_user(serve: Serve) -> None:
    client = serve(rate_limit_requests="3/minute")
    caller, other = client_as(client, unique_user_id()), client_as(client, unique_user_id())
    assert [caller.get().status_code for _ in range(3)] == [200] * 3
    assert_limited(caller.get(), "requests", 3, 60)
    assert_limited(caller.post(new_task()), "requests", 3, 60)
    assert other.ids() == []


@pytest.mark.spec("limits.requests")
def test_failed_requests_count_against_the_limit(serve: Serve) -> None:
    client = serve(rate_limit_requests="4/hour")
    caller = client_as(client, unique_user_id())
    reader = client_as(client, caller.user_id, scope="tasks:read")
    statuses = [
        caller.get(f"{TASKS}?limit=0").status_code,
        caller.get(f"{TASKS}/{uuid.uuid4()}").status_code,
        caller.post({}).status_code,
        reader.post(new_task()).status_code,
    ]
    assert statuses == [422, 404, 422, 403]
    assert_limited(caller.get(), "requests", 4, 3600)
    assert_limited(reader.get(), "requests", 4, 3600)


@pytest.mark.spec("limits.requests", "limits.headers")
def test_a_limit_may_span_several_time_units(serve: Serve) -> None:
    caller = client_as(serve(rate_limit_requests="1 per 5 minutes"), unique_user_id())
    caller.get()
    assert_limited(caller.get(), "requests", 1, 300)


@pytest.mark.spec("limits.headers")
def test_the_last_second_of_a_window_is_counted_as_a_whole(serve: Serve) -> None:
    caller = client_as(serve(rate_limit_requests="1 per 1 second"), unique_user_id())
    while (response := caller.get()).status_code == 200:
        pass
    assert response.headers["retry-after"] == "1"
    assert response.headers["ratelimit"] == '"requests";r=0;t=1'


@pytest.mark.spec("limits.storage")
def test_an_expired_window_starts_over(monkeypatch: pytest.MonkeyPatch) -> None:
    rate, now = parse("2/minute"), 1_000.0
    monkeypatch.setattr(time, "time", lambda: now)

    async def scenario() -> None:
        nonlocal now
        windows = LocalWindows()
        assert await windows.get_window_stats(rate, "requests", "ann") == (1_000.0, 2)
        assert [await windows.hit(rate, "requests", "ann") for _ in range(3)] == [True, True, False]
        assert await windows.hit(rate, "requests", "bob")
        assert await windows.get_window_stats(rate, "requests", "ann") == (1_060.0, 0)
        now += 30
        assert await windows.hit(rate, "requests", "cat")
        assert not await windows.hit(rate, "requests", "ann")
        now += 29.9
        assert not await windows.hit(rate, "requests", "ann")
        now += 0.1
        assert await windows.hit(rate, "requests", "ann")
        assert await windows.get_window_stats(rate, "requests", "ann") == (1_120.0, 1)
        assert await windows.get_window_stats(rate, "requests", "cat") == (1_090.0, 1)

    asyncio.run(scenario())


ONE_PER_MINUTE = parse("1/minute")


def first_hits(windows: LocalWindows, keys: Iterator[str], name: str = "requests") -> list[bool]:
    """Hit each key once; returns whether each hit was within one per minute."""

    async def scenario() -> list[bool]:
        return [await windows.hit(ONE_PER_MINUTE, name, key) for key in keys]

    return asyncio.run(scenario())


@pytest.mark.spec("limits.memory")
def test_the_oldest_window_is_evicted_when_the_table_is_full() -> None:
    windows = LocalWindows(size=100)
    assert first_hits(windows, iter(["flooder"] * 2)) == [True, False]
    assert all(first_hits(windows, (f"newcomer-{number}" for number in range(99))))
    assert first_hits(windows, iter(["flooder", "newcomer-0"])) == [False, False]
    assert first_hits(windows, iter(["newcomer-99", "flooder", "newcomer-98"])) == [True, True, False]


@pytest.mark.spec("limits.memory")
def test_a_restarted_window_is_evicted_last(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000.0
    monkeypatch.setattr(time, "time", lambda: now)
    windows = LocalWindows(size=2)
    assert first_hits(windows, iter(["ann"])) == [True]
    now += 60
    assert first_hits(windows, iter(["ann", "bob", "ann", "cat"])) == [True, True, False, True]
    assert first_hits(windows, iter(["bob", "ann"])) == [False, True]


@pytest.mark.spec("limits.memory")
def test_auth_failures_do_not_evict_request_windows() -> None:
    windows = LocalWindows(size=10)
    assert first_hits(windows, iter(["ann"])) == [True]
    assert all(first_hits(windows, (f"address-{number}" for number in range(1_000)), "auth-failures"))
    assert first_hits(windows, iter(["ann"])) == [False]


@pytest.mark.spec("limits.memory")
def test_long_ids_with_a_common_prefix_are_counted_separately() -> None:
    windows, long = LocalWindows(), "\N{GRINNING FACE}" * 254
    assert first_hits(windows, iter([f"{long}a", f"{long}b", f"{long}a", long])) == [True, True, False, True]


def networks() -> Iterator[str]:
    """The 2**32 networks (/64) of an IPv6 /32."""
    return (f"2001:db8:{number >> 16:x}:{number & 0xFFFF:x}::/64" for number in count())


@pytest.mark.spec("limits.memory")
@pytest.mark.parametrize(
    ("keys", "hits", "megabytes"),
    [
        (networks(), 1_000_000, 10),
        (("\N{GRINNING FACE}" * 31 + f"{number:08}" for number in count()), 100_000, 16),
        (("\N{GRINNING FACE}" * 247 + f"{number:08}" for number in count()), 100_000, 16),
    ],
    ids=["networks", "the largest IDs that are stored as they are", "the largest IDs"],
)
def test_memory_is_bounded_for_any_number_of_clients(keys: Iterator[str], hits: int, megabytes: int) -> None:
    async def scenario() -> None:
        windows = LocalWindows()
        for _ in range(hits):
            assert await windows.hit(ONE_PER_MINUTE, "auth-failures", next(keys))

    tracemalloc.start()
    try:
        asyncio.run(scenario())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= megabytes * 1_000_000


def count_opcodes(action: Callable[[], object]) -> int:
    """The number of Python bytecode instructions that `action` executes."""
    counted = 0

    def trace(frame: FrameType, event: str, _: object) -> "TraceFunction":
        nonlocal counted
        frame.f_trace_opcodes = True
        counted += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(before)
    return counted


@pytest.mark.spec("limits.memory")
def test_a_hit_takes_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even when all windows have expired and could be evicted."""
    now = 1_000.0
    monkeypatch.setattr(time, "time", lambda: now)

    def max_opcodes(size: int) -> int:
        nonlocal now
        windows, keys = LocalWindows(size), networks()
        first_hits(windows, (next(keys) for _ in range(2 * size)))

        def hit() -> None:
            with pytest.raises(StopIteration):
                windows.hit(ONE_PER_MINUTE, "requests", next(keys)).send(None)

        full = max(count_opcodes(hit) for _ in range(10))
        now += 3600
        return max(full, *(count_opcodes(hit) for _ in range(10)))

    assert 0 < max_opcodes(MAX_WINDOWS) <= 2 * max_opcodes(4)


@pytest.mark.spec("limits.failures", "limits.headers")
def test_auth_failures_are_limited_for_each_address(serve: Serve) -> None:
    client = serve(rate_limit_auth_failures="2/minute")
    anonymous, forger = Caller(client, "", None), Caller(client, "", "a.b.c")
    assert_unauthorized(anonymous.get(), None)
    assert_unauthorized(forger.get(), "The token is malformed")
    assert_limited(anonymous.get(), "auth-failures", 2, 60)
    assert_limited(forger.post(new_task()), "auth-failures", 2, 60)


@pytest.mark.spec("limits.good-token")
def test_auth_failures_do_not_block_valid_tokens(serve: Serve) -> None:
    client = serve(rate_limit_auth_failures="1/minute")
    anonymous = Caller(client, "", None)
    assert [anonymous.get().status_code for _ in range(3)] == [401, 429, 429]
    assert client_as(client, unique_user_id()).ids() == []


def status_from(client: object, forwarded: str | None) -> int:
    assert isinstance(client, Caller)
    headers = {"X-Forwarded-For": forwarded} if forwarded is not None else {}
    return client.get(headers=headers).status_code


@pytest.mark.spec("limits.address")
def test_x_forwarded_for_is_ignored_without_a_trusted_proxy(serve: Serve) -> None:
    caller = Caller(serve(rate_limit_auth_failures="1/minute"), "", None)
    assert [status_from(caller, f"198.51.100.{n}") for n in range(3)] == [401, 429, 429]


@pytest.mark.spec("limits.address")
def test_behind_one_proxy_the_last_entry_is_the_client(serve: Serve) -> None:
    caller = Caller(serve(rate_limit_auth_failures="1/minute", trusted_proxy_hops=1), "", None)
    assert status_from(caller, "198.51.100.1") == 401
    assert status_from(caller, "203.0.113.9, 198.51.100.1") == 429
    assert status_from(caller, "198.51.100.1, 198.51.100.2") == 401


@pytest.mark.spec("limits.address")
def test_behind_two_proxies_the_second_to_last_entry_is_the_client(serve: Serve) -> None:
    caller = Caller(serve(rate_limit_auth_failures="1/minute", trusted_proxy_hops=2), "", None)
    assert status_from(caller, "198.51.100.1, 10.0.0.1") == 401
    assert status_from(caller, "6.6.6.6,198.51.100.1 ,10.0.0.2") == 429


@pytest.mark.spec("limits.address")
@pytest.mark.parametrize(
    "forwarded",
    ["", "198.51.100.1", "x, y", "unknown, 10.0.0.1", ", ,", "\u00e9, 10.0.0.1", "1.2.3.4:80, 10.0.0.1"],
)
def test_an_unusable_header_falls_back_to_the_peer_address(serve: Serve, forwarded: str) -> None:
    caller = Caller(serve(rate_limit_auth_failures="1/minute", trusted_proxy_hops=2), "", None)
    assert status_from(caller, None) == 401
    headers = [(b"X-Forwarded-For", forwarded.encode("latin-1"))]
    assert caller.client.get(TASKS, headers=headers).status_code == 429


@pytest.mark.spec("limits.address")
def test_an_ipv6_64_network_counts_as_one_client(serve: Serve) -> None:
    caller = Caller(serve(rate_limit_auth_failures="1/minute", trusted_proxy_hops=1), "", None)
    assert status_from(caller, "2001:db8:1:2::1") == 401
    assert status_from(caller, "2001:db8:1:2:ffff::9") == 429
    assert status_from(caller, "[2001:db8:1:2::7]") == 429
    assert status_from(caller, "2001:db8:1:3::1") == 401
    assert status_from(caller, "::ffff:198.51.100.1") == 401
    assert status_from(caller, "198.51.100.1") == 429


@pytest.mark.spec("limits.storage-down")
def test_it_counts_in_memory_while_redis_is_down(serve: Serve) -> None:
    client = serve(rate_limit_storage_url="redis://127.0.0.1:1", rate_limit_requests="2/minute")
    caller = client_as(client, unique_user_id())
    assert [caller.get().status_code for _ in range(2)] == [200] * 2
    assert_limited(caller.get(), "requests", 2, 60)


@pytest.mark.spec("limits.storage-down")
def test_only_one_request_waits_for_a_redis_that_is_down(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """Each attempt logs a warning; the next one is made after PAUSE_SECONDS."""
    caller = client_as(serve(rate_limit_storage_url="redis://127.0.0.1:1"), unique_user_id())
    assert [caller.get().status_code for _ in range(3)] == [200] * 3
    warnings = [record for record in caplog.records if record.name == rate_limits.__name__]
    assert len(warnings) == 1


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    """A Redis for one test, which can be stopped and restarted."""
    with running_redis(tmp_path) as server:
        yield server


@pytest.mark.spec("limits.storage")
def test_processes_share_counters_in_redis(serve: Serve, redis: Redis) -> None:
    user_id = unique_user_id()
    first, second = (
        client_as(serve(rate_limit_storage_url=redis.url, rate_limit_requests="3/minute"), user_id)
        for _ in range(2)
    )
    assert [caller.get().status_code for caller in (first, second, first)] == [200] * 3
    assert_limited(first.get(), "requests", 3, 60)
    assert_limited(second.get(), "requests", 3, 60)


@pytest.mark.spec("limits.storage")
def test_processes_without_redis_count_separately(serve: Serve) -> None:
    user_id = unique_user_id()
    first, second = (client_as(serve(rate_limit_requests="1/minute"), user_id) for _ in range(2))
    assert [caller.get().status_code for caller in (first, second, first, second)] == [200, 200, 429, 429]


@pytest.mark.spec("limits.storage-down")
def test_it_returns_to_redis_after_an_outage(
    serve: Serve, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_limits, "PAUSE_SECONDS", 0)
    caller = client_as(
        serve(rate_limit_storage_url=redis.url, rate_limit_requests="2/minute"), unique_user_id()
    )
    assert caller.get().status_code == 200
    redis.stop()
    assert [caller.get().status_code for _ in range(3)] == [200, 200, 429]
    redis.start()
    assert caller.get().status_code == 200
