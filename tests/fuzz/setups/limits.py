"""Set-ups with low rate limits: in memory and in Redis, in several processes, behind proxies."""

import itertools
import re
import time
from concurrent.futures import ThreadPoolExecutor, as_completed

from httpx2 import Response

from tests.chaos.servers import running_redis
from tests.fuzz.context import User
from tests.fuzz.lab import Lab, refuse_each_operation, set_up
from tests.fuzz.prober import Prober, valid
from tests.fuzz.probes.batch import BATCH, request_of
from tests.fuzz.setups.database import LONG_TIMEOUTS, behind_proxy
from tests.operations import OPERATIONS
from tests.support import ACCOUNT, TASKS, wait_until

QUANTITY, FAILURES = len(OPERATIONS) + 3, 3
LIMITS = {
    "RATE_LIMIT_REQUESTS": f"{QUANTITY}/minute",
    "RATE_LIMIT_AUTH_FAILURES": f"{FAILURES}/minute",
}
DEFAULT_FAILURES = 60
LISTS = 20
CREATE = {"op": "create", "task": {"title": "New"}}
NOT_REDIS = "redis://127.0.0.1:1"


def expect_limited(prober: Prober, response: Response, name: str, quantity: int, begun: float) -> None:
    """A 429 of a window of a minute that began no earlier than `begun`, by the monotonic clock."""
    policy, limit = (response.headers.get(header, "") for header in ("RateLimit-Policy", "RateLimit"))
    prober.expect(policy == f'"{name}";q={quantity};w=60', f"the policy is {policy!r}", response)
    after = response.headers.get("Retry-After", "")
    prober.expect(limit == f'"{name}";r=0;t={after}', f"RateLimit is {limit!r}", response)
    least = max(1, 59 - (time.monotonic() - begun))
    prober.expect(after.isdecimal() and least <= int(after) <= 60, f"Retry-After is {after!r}", response)


def use_up(probers: list[Prober], user: User) -> float:
    """Send as many requests as the limit allows, with several outcomes, to the services in turn.

    Returns when the first was sent, by the monotonic clock.
    """
    begun = time.monotonic()
    turns = itertools.cycle(probers)
    for operation in OPERATIONS:
        status = 404 if operation.on_one_task else operation.status
        next(turns).accept(status, operation.method, operation.url(), **valid(operation, user))
    for status, query in ((422, "?limit=0"), (404, "/018f0000-0000-7000-8000-000000000000")):
        next(turns).accept(status, "GET", TASKS + query, token=user)
    limited = User(user.id, next(turns).context.mint(user.id, scope="openid"))
    next(turns).refuse(403, "insufficient-scope", "GET", TASKS, token=limited)
    return begun


def expect_user_limit(prober: Prober, user: User, begun: float) -> None:
    for response in refuse_each_operation(prober, 429, "too-many-requests", user):
        expect_limited(prober, response, "requests", QUANTITY, begun)


def fail(prober: Prober, status: int, address: str | None = None) -> Response:
    """A request with an invalid token, from an address that a proxy claims."""
    headers = [] if address is None else [("X-Forwarded-For", address)]
    return prober.accept(status, "GET", TASKS, token="invalid", headers=headers)


@set_up("limits.requests", "limits.headers", "limits.storage", at_least=3 * QUANTITY)
def a_user_over_the_limit(lab: Lab) -> None:
    """Two processes count on their own; another user is not affected."""
    with (
        lab.service(**LIMITS) as first,
        lab.service(**LIMITS) as second,
    ):
        user = lab.user()
        for prober in (first, second):
            expect_user_limit(prober, user, begun=use_up([prober], user))
        prober.accept(200, "GET", TASKS, token=lab.user())
        prober.accept(200, "GET", "/health/live", token=user)


@set_up("limits.storage", "limits.requests", "limits.failures", at_least=2 * QUANTITY)
def processes_that_share_a_redis(lab: Lab) -> None:
    with running_redis(lab.folder) as server:
        settings = {**LIMITS, "RATE_LIMIT_STORAGE_URL": server.url, "WEB_CONCURRENCY": "2"}
        with lab.service(**settings) as first, lab.service(**settings) as second:
            user = lab.user()
            begun = use_up([first, second], user)
            for prober in (first, second):
                expect_user_limit(prober, user, begun)
                prober.accept(200, "GET", TASKS, token=lab.user())
            begun = time.monotonic()
            for prober in (first, second, first):
                fail(prober, 401)
            for prober in (first, second):
                expect_limited(prober, fail(prober, 429), "auth-failures", FAILURES, begun)
            server.stop()
            # In memory each process starts from zero.
            first.accept(200, "GET", TASKS, token=user)
            fail(first, 401)


@set_up("limits.storage-down", at_least=QUANTITY)
def a_redis_that_is_absent(lab: Lab) -> None:
    with lab.service(**LIMITS, RATE_LIMIT_STORAGE_URL=NOT_REDIS) as prober:
        user = lab.user()
        expect_user_limit(prober, user, begun=use_up([prober], user))


@set_up("limits.requests", at_least=3)
def a_window_that_ends(lab: Lab) -> None:
    with lab.service(RATE_LIMIT_REQUESTS="1/2 second") as prober:
        user = lab.user()
        prober.accept(200, "GET", TASKS, token=user)
        limited = prober.accept(429, "GET", TASKS, token=user)
        policy = limited.headers.get("RateLimit-Policy", "")
        prober.expect(re.fullmatch(r'"requests";q=1;w=2', policy), f"the policy is {policy!r}", limited)
        after = limited.headers.get("Retry-After", "")
        prober.expect(after in {"1", "2"}, f"Retry-After is {after!r}", limited)
        wait_until(lambda: _is_accepted(prober, user), "a window never ends", seconds=10)
        prober.met()


def _is_accepted(prober: Prober, user: User) -> bool:
    """Also in the last second of its window, a refused request may not be sent again at once."""
    response = prober.request("GET", TASKS, token=user)
    if response.status_code != 200:
        prober.expect(response.headers.get("Retry-After") != "0", "Retry-After is zero", response)
    return response.status_code == 200


@set_up("batch.limits", "limits.requests", at_least=3)
def a_batch_over_the_limit(lab: Lab) -> None:
    """Each operation counts as a request."""
    with lab.service(RATE_LIMIT_REQUESTS="10/minute") as prober:
        user, begun = lab.user(), time.monotonic()
        for count, status in ((6, 200), (4, 200)):
            prober.accept(status, "POST", BATCH, **request_of(user, *[CREATE] * count))
        limited = prober.refuse(429, "too-many-requests", "POST", BATCH, **request_of(user, CREATE))
        expect_limited(prober, limited, "requests", 10, begun)
        over = request_of(lab.user(), *[CREATE] * 11)
        prober.refuse(429, "too-many-requests", "POST", BATCH, **over)


@set_up("limits.failures", "limits.good-token", "limits.headers", at_least=20)
def an_address_with_too_many_failures(lab: Lab) -> None:
    with lab.service(**LIMITS) as prober:
        begun = time.monotonic()
        for _ in range(FAILURES):
            fail(prober, 401)
        for token in (None, "invalid", "a.b.c", lab.context.invalid_tokens["an expired token"]):
            for response in refuse_each_operation(prober, 429, "too-many-requests", token):
                expect_limited(prober, response, "auth-failures", FAILURES, begun)
        prober.accept(200, "GET", TASKS, token=lab.user())
        limited = lab.user(scope="openid")
        prober.refuse(403, "insufficient-scope", "GET", TASKS, token=limited)


@set_up("limits.address", "limits.failures", at_least=29)
def an_address_behind_proxies(lab: Lab) -> None:
    """The addresses of one list count as one client, those of another list as another."""
    same: dict[int, list[list[str | None]]] = {
        0: [[None, "198.51.100.1", "198.51.100.2, 10.0.0.1"]],
        1: [
            ["198.51.100.1", "6.6.6.6, 198.51.100.1", "6.6.6.6,,198.51.100.1", "6.6.6.6 ,198.51.100.1"],
            ["198.51.100.1, 198.51.100.2", "198.51.100.2", "x, 198.51.100.2"],
            ["2001:db8:1:2::1", "2001:db8:1:2:ffff::9", "[2001:db8:1:2::7]", "2001:DB8:1:2::8"],
            ["2001:db8:1:3::1", "2001:db8:1:3::"],
            ["::ffff:203.0.113.1", "203.0.113.1"],
            [None, "", "unknown", "198.51.100.1, x", "198.51.100.1, 1.2.3.4:80"],
        ],
        2: [
            ["198.51.100.1, 10.0.0.1", "6.6.6.6,198.51.100.1 ,10.0.0.2"],
            [None, "198.51.100.1", "unknown, 10.0.0.1", ", ,"],
        ],
    }
    for hops, clients in same.items():
        settings = {"RATE_LIMIT_AUTH_FAILURES": "1/minute", "TRUSTED_PROXY_HOPS": str(hops)}
        with lab.service(**settings) as prober:
            for first, *others in clients:
                fail(prober, 401, first)
                for address in others:
                    fail(prober, 429, address)


@set_up("limits.failures", "limits.headers", at_least=DEFAULT_FAILURES + 1)
def the_usual_limit_of_failures(lab: Lab) -> None:
    """Without the setting. The same for requests would take 600 of them."""
    with lab.service(RATE_LIMIT_AUTH_FAILURES="") as prober:
        begun = time.monotonic()
        for _ in range(DEFAULT_FAILURES):
            fail(prober, 401)
        expect_limited(prober, fail(prober, 429), "auth-failures", DEFAULT_FAILURES, begun)


@set_up("limits.lists", "limits.headers", at_least=3)
def a_user_with_many_lists_in_progress(lab: Lab) -> None:
    """One more than the limit; the others wait for connections to open."""
    user, policy = lab.user(), f'"concurrent-lists";q={LISTS};qu="concurrent-requests"'
    with (
        behind_proxy(lab, DB_POOL_SIZE=str(LISTS), **LONG_TIMEOUTS) as (proxy, prober),
        ThreadPoolExecutor(LISTS + 1) as threads,
    ):
        proxy.held = True
        headers = {"Authorization": f"Bearer {user.token}"}
        running = [threads.submit(prober.client.get, TASKS, headers=headers) for _ in range(LISTS + 1)]
        try:
            refused = next(as_completed(running, timeout=30))
            running.remove(refused)
            prober.expect(refused.result().status_code == 429, "the lists are not limited")
            for path in (TASKS, f"{TASKS}/changes", f"{ACCOUNT}/export"):
                limited = prober.refuse(429, "too-many-requests", "GET", path, token=user)
                found = limited.headers.get("RateLimit-Policy")
                prober.expect(found == policy, f"the policy is {found!r}", limited)
        finally:
            proxy.held = False
        statuses = {each.result().status_code for each in running}
        prober.expect(statuses == {200}, f"lists up to the limit get {statuses}")
        prober.accept(200, "GET", TASKS, token=user)
