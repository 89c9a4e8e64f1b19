"""Pages on origins that look like an allowed one (Fetch, section 3.3)."""

import pytest
from httpx2 import Response

from tests.hostile.raw_http import (
    SMUGGLED_REQUEST,
    Target,
    content_length,
    new_token,
    parametrize_cases,
    post_task,
    request_with_id,
    statuses_and_ids,
)
from tests.support import ORIGIN, assert_problem

LOOK_ALIKES = {
    "null": "null",
    "suffix": f"{ORIGIN}.evil.example",
    "prefix": "https://evil-app.example.com",
    "subdomain": "https://evil.app.example.com",
    "parent": "https://example.com",
    "dot for any character": "https://appxexample.com",
    "other scheme": "http://app.example.com",
    "scheme of an extension": "chrome-extension://app.example.com",
    "other port": f"{ORIGIN}:8443",
    "its own port": f"{ORIGIN}:443",
    "no port": f"{ORIGIN}:",
    "upper case": ORIGIN.upper(),
    "upper-case host": "https://App.example.com",
    "trailing dot": f"{ORIGIN}.",
    "trailing slash": f"{ORIGIN}/",
    "path": f"{ORIGIN}/x",
    "credentials": "https://app.example.com@evil.example",
    "credentials before": "https://user@app.example.com",
    "backslash": "https://evil.example\\app.example.com",
    "encoded dot": "https://app%2Eexample.com",
    "encoded NUL": f"{ORIGIN}%00.evil.example",
    "no-break space": f"{ORIGIN}\xa0",
    "list": f"{ORIGIN}, https://evil.example",
    "list, the other way": f"https://evil.example, {ORIGIN}",
    "two in a row": f"{ORIGIN} https://evil.example",
    "any": "*",
    "empty": "",
    "no scheme": "app.example.com",
    "relative": "//app.example.com",
    "file": "file://",
    "long": f"https://{'a' * 8000}.example",
    "markup": "<script>",
}

ALLOW_ORIGIN = "access-control-allow-origin"


def preflight(*fields: str, origin: str = ORIGIN) -> bytes:
    return request_with_id("first", "OPTIONS /api/tasks HTTP/1.1", f"Origin: {origin}", *fields)


def assert_cors_refused(answer: Response) -> None:
    assert_problem(answer, 400, "cors-refused")
    assert "Origin" in answer.headers["vary"]


@parametrize_cases(LOOK_ALIKES)
@pytest.mark.spec("cors.refused")
def test_a_look_alike_origin_gets_no_allow_origin(target: Target, case: str) -> None:
    fields = [f"Origin: {case}", f"Authorization: Bearer {new_token('owner')}", "Cookie: session=x"]
    for path, status in {
        "/api/tasks": 200,
        "/health/live": 200,
        "/api/tasks?x=1": 422,
        "/nowhere": 404,
    }.items():
        answer = target.send(request_with_id("first", f"GET {path} HTTP/1.1", *fields))
        assert answer.status_code == status
        assert ALLOW_ORIGIN not in answer.headers
        assert "Origin" in answer.headers["vary"]


@parametrize_cases(LOOK_ALIKES)
@pytest.mark.spec("cors.refused", "cors.preflight")
def test_a_preflight_of_a_look_alike_origin_is_refused(target: Target, case: str) -> None:
    answer = target.send(preflight("Access-Control-Request-Method: GET", origin=case))
    assert ALLOW_ORIGIN not in answer.headers
    assert_cors_refused(answer)


@pytest.mark.parametrize("order", [1, -1])
def test_two_origin_headers_never_allow_the_other_one(target: Target, order: int) -> None:
    fields = [f"Origin: {ORIGIN}", "Origin: https://evil.example"][::order]
    answer = target.send(request_with_id("first", "GET /health/live HTTP/1.1", *fields))
    assert answer.headers.get_list(ALLOW_ORIGIN) in ([], [ORIGIN])


METHODS = ["TRACE", "CONNECT", "get", "GET, DELETE", "GET\tDELETE", "*", "", "X" * 8000]


@pytest.mark.parametrize("method", METHODS, ids=[method[:12] or "empty" for method in METHODS])
@pytest.mark.spec("cors.preflight")
def test_a_preflight_for_another_method_is_refused(target: Target, method: str) -> None:
    assert_cors_refused(target.send(preflight(f"Access-Control-Request-Method: {method}")))


HEADERS = {
    "another": "X-Evil",
    "another at the end": "authorization, content-type, x-evil",
    "any": "*",
    "other separator": "authorization;x-evil",
    "no separator": "authorization x-evil",
    "prefix": "authorization-evil",
    "no-break space": "authorization\xa0x",
    "method's override": "x-http-method-override",
    "forwarded": "x-forwarded-for",
    "long": "x" * 8000,
    "many": "authorization, " * 500 + "x-evil",
}


@parametrize_cases(HEADERS)
@pytest.mark.spec("cors.preflight")
def test_a_preflight_for_another_header_is_refused(target: Target, case: str) -> None:
    asked = ["Access-Control-Request-Method: GET", f"Access-Control-Request-Headers: {case}"]
    answer = target.send(preflight(*asked))
    assert_cors_refused(answer)
    assert case not in answer.headers.get("access-control-allow-headers", "")


def test_a_preflight_has_no_effect(target: Target) -> None:
    """Even with a token and a body."""
    token = new_token("owner")
    body = b'{"title": "x"}'
    asked = ["Access-Control-Request-Method: POST", f"Authorization: Bearer {token}"]
    answer = target.send(preflight(*asked, "Content-Type: application/json", content_length(body)) + body)
    assert answer.status_code == 204
    listed = target.send(
        request_with_id("first", "GET /api/tasks HTTP/1.1", f"Authorization: Bearer {token}")
    )
    assert listed.json() == []


def test_a_request_inside_a_preflight_is_not_parsed(target: Target) -> None:
    message = (
        preflight("Access-Control-Request-Method: GET", content_length(SMUGGLED_REQUEST)) + SMUGGLED_REQUEST
    )
    assert statuses_and_ids(target.exchange(message)) in ([(204, "first")], [(204, "first"), (200, "last")])


def test_a_preflight_does_not_grant_private_network_access(target: Target) -> None:
    asked = ["Access-Control-Request-Method: GET", "Access-Control-Request-Private-Network: true"]
    answer = target.send(preflight(*asked))
    assert "access-control-allow-private-network" not in answer.headers


def test_an_allowed_origin_still_needs_a_token(target: Target) -> None:
    """A cross-site request forgery carries an origin and cookies."""
    fields = [f"Origin: {ORIGIN}", "Cookie: better-auth.session_token=x", "Sec-Fetch-Site: same-origin"]
    assert_problem(
        target.send(request_with_id("first", "GET /api/tasks HTTP/1.1", *fields)), 401, "unauthorized"
    )


@pytest.mark.parametrize(
    "media_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
)
def test_cors_safelisted_media_types_are_refused(target: Target, media_type: str) -> None:
    """Media types that a page may send without a preflight."""
    body = b'{"title": "x"}'
    message = post_task("first", new_token("owner"), content_length(body), body=body, media_type=media_type)
    assert_problem(target.send(message), 415, "unsupported-media-type")
