"""Probes of request IDs, timing and CORS."""

import re

from tests.fuzz.prober import Headers, Prober, probe
from tests.operations import ID
from tests.support import ORIGIN, TASKS

SIMILAR_ORIGINS = (
    "https://evil.example.com", f"{ORIGIN}.evil.com", f"{ORIGIN}:443", f"{ORIGIN}:8443", f"{ORIGIN}/",
    ORIGIN.upper(),
    ORIGIN.replace("https", "http"), ORIGIN.replace("app.", ""), ORIGIN.replace("app.", "xapp."),
    ORIGIN.replace("app.", "x.app."),
    ORIGIN.replace(".", "x", 1), f"{ORIGIN}, {ORIGIN}", "null", "*", "", "https://",
)  # fmt: skip
GOOD_REQUEST_IDS = ("a", "A-z_0.9", "x" * 128)
BAD_REQUEST_IDS = ("", "x" * 129, "a b", "a/b", "a\tb", "a,b", "<script>", "é")
ALLOWED_HEADERS = (
    "authorization, content-type, idempotency-key, if-match, if-none-match, x-request-id, accept,"
    " accept-language, content-language"
)
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_TIMING = re.compile(r"db;dur=(\d+\.\d), wait;dur=(\d+\.\d)")


@probe("headers.request-id", at_least=len(GOOD_REQUEST_IDS) + len(BAD_REQUEST_IDS) + 1)
def a_request_id_of_every_form(prober: Prober) -> None:
    good = [[("X-Request-ID", each)] for each in GOOD_REQUEST_IDS]
    bad = [[("X-Request-ID", each)] for each in BAD_REQUEST_IDS]
    twice = [("X-Request-ID", "a"), ("X-Request-ID", "a")]
    issued = set()
    for headers in (*good, *bad, twice):
        response = prober.client.get(
            "/health/live", headers=[(name.encode(), value.encode()) for name, value in headers]
        )
        prober.met()
        found = response.headers.get("X-Request-ID", "")
        if headers in good:
            prober.expect(found == headers[0][1], f"{headers} got {found!r}", response)
        else:
            is_new = re.fullmatch(r"[0-9a-f]{32}", found) and found not in issued
            prober.expect(is_new, f"{headers} got {found!r}", response)
            issued.add(found)


@probe("headers.server-timing", at_least=3)
def the_timing_of_a_response(prober: Prober) -> None:
    owner, task = prober.context.owner, prober.context.any_task()
    for path in (TASKS, f"{TASKS}/{task}", "/health/ready"):
        response = prober.accept(200, "GET", path, token=owner)
        if path.startswith(TASKS):
            _expect_timing(
                prober,
                response.headers.get("Server-Timing", ""),
                prober.sent[response.headers["X-Request-ID"]].milliseconds,
            )
    for status, path in (
        (404, f"{TASKS}/{ID}"), (422, f"{TASKS}?limit=0"), (422, f"{TASKS}?x=1"), (200, "/health/live"),
    ):  # fmt: skip
        response = prober.accept(status, "GET", path, token=owner)
        prober.expect("Server-Timing" not in response.headers, f"{path} has a Server-Timing header", response)


def _expect_timing(prober: Prober, value: str, milliseconds: float) -> None:
    found = _TIMING.fullmatch(value)
    if not found:
        prober.fail(f"the Server-Timing is {value!r}")
        return
    database, wait = float(found[1]), float(found[2])
    prober.expect(database > 0, f"the statement took no time: {value}")
    prober.expect(
        database + wait <= milliseconds + 1, f"{value} is more than the request's {milliseconds:.1f} ms"
    )


@probe("cors.allowed", "cors.refused", "cors.vary", at_least=3 * len(SIMILAR_ORIGINS))
def an_origin_that_is_almost_allowed(prober: Prober) -> None:
    owner = prober.context.owner
    for origin in (*SIMILAR_ORIGINS, None):
        for path in (TASKS, f"{TASKS}/{ID}", "/health/live"):
            response = prober.request("GET", path, token=owner, origin=origin)
            prober.met()
            present = [name for name in response.headers if name.startswith("access-control-")]
            prober.expect(not present, f"the origin {origin!r} gets {present}", response)


@probe("cors.preflight", "cors.expose", "headers.cache", at_least=12 * len(METHODS))
def a_preflight_that_is_allowed(prober: Prober) -> None:
    for path in (TASKS, f"{TASKS}/{ID}", "/unknown"):
        for method in METHODS:
            for wanted in ("", "authorization", "Content-Type,Authorization", ALLOWED_HEADERS):
                response = prober.accept(204, "OPTIONS", path, headers=_preflight(method, wanted))
                allowed = response.headers.get("Access-Control-Allow-Methods", "")
                prober.expect(
                    set(allowed.split(", ")) == set(METHODS), f"the allowed methods are {allowed!r}", response
                )
                permitted = _names(response.headers.get("Access-Control-Allow-Headers", ""))
                prober.expect(_names(wanted) <= permitted, f"the allowed headers are {permitted}", response)
                age = response.headers.get("Access-Control-Max-Age", "")
                prober.expect(age.isdecimal() and int(age) > 0, f"Max-Age is {age!r}", response)


def _names(headers: str) -> set[str]:
    return {name.strip().lower() for name in headers.split(",")} - {""}


@probe("cors.preflight", "cors.refused", at_least=len(SIMILAR_ORIGINS))
def a_preflight_that_is_rejected(prober: Prober) -> None:
    for origin in SIMILAR_ORIGINS:
        prober.refuse(400, "cors-refused", "OPTIONS", TASKS, headers=_preflight("GET", ""), origin=origin)
    for method, wanted in (
        ("TRACE", ""),
        ("get", ""),
        ("", ""),
        ("GET", "x-evil"),
        ("GET", "authorization, cookie"),
    ):
        prober.refuse(400, "cors-refused", "OPTIONS", TASKS, headers=_preflight(method, wanted))


def _preflight(method: str, headers: str) -> Headers:
    wanted = [("Access-Control-Request-Headers", headers)] if headers else []
    return [("Access-Control-Request-Method", method), *wanted]
