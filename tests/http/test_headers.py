"""Headers of every response."""

import re
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from httpx2 import Response

from tests.conftest import Serve
from tests.environment import libpq_url
from tests.factories import new_task
from tests.protocol_proxy import ProtocolProxy
from tests.support import TASKS, Caller, client_as, ok, wait_until
from web import docs_page


def all_responses(owner: Caller, anonymous: Caller) -> dict[str, Response]:
    """Responses by name; a leading status in the name is checked."""
    task = owner.create()["id"]
    answers = {
        "200": owner.get(),
        "201": owner.post(new_task()),
        "204": owner.delete(task),
        "400": owner.get(f"{TASKS}?cursor=x"),
        "401": anonymous.get(),
        "404": owner.get(f"{TASKS}/{task}"),
        "404 path": owner.get("/nowhere"),
        "405": owner.request("POST", f"{TASKS}/{task}"),
        "413": owner.post("x" * 70_000),
        "415": owner.request("POST", TASKS, content=b"x"),
        "422": owner.post({}),
        "live": anonymous.get("/health/live"),
        "ready": anonymous.get("/health/ready"),
        "contract": anonymous.get("/openapi.json"),
        "docs": anonymous.get("/docs"),
        "asset": anonymous.get(next(iter(docs_page.assets()))),
        "404 asset": anonymous.get(f"{docs_page.PREFIX}/0/swagger-ui.css"),
        "problem": anonymous.get("/problems/not-found"),
        "preflight": preflight(anonymous, "https://app.example.com"),
        "bad preflight": preflight(anonymous, "https://evil.example"),
    }
    for name, answer in answers.items():
        assert not name[0].isdigit() or int(name[:3]) == answer.status_code, name
    return answers


def preflight(caller: Caller, origin: str) -> Response:
    headers = {"Origin": origin, "Access-Control-Request-Method": "PUT"}
    return caller.request("OPTIONS", TASKS, headers=headers)


@pytest.mark.spec("headers.security")
def test_every_response_has_the_security_headers(owner: Caller, anonymous: Caller) -> None:
    for name, response in all_responses(owner, anonymous).items():
        headers = response.headers
        assert headers["x-content-type-options"] == "nosniff", name
        assert headers["x-frame-options"] == "DENY", name
        assert headers["referrer-policy"] == "no-referrer", name
        assert headers["strict-transport-security"].startswith("max-age=63072000"), name
        assert "camera=()" in headers["permissions-policy"], name
        assert headers["content-security-policy"].startswith("default-src 'none'; frame-ancestors 'none'"), (
            name
        )
        assert len(headers.get_list("content-security-policy")) == 1, name


@pytest.mark.spec("headers.cache")
def test_responses_about_tasks_are_privately_cacheable(owner: Caller, anonymous: Caller) -> None:
    for name, response in all_responses(owner, anonymous).items():
        vary = response.headers["vary"].split(", ")
        if response.request.url.path.startswith(TASKS) and "preflight" not in name:
            assert response.headers["cache-control"] == "private, no-cache", name
            assert "Authorization" in vary, name
        else:
            assert response.headers.get_list("cache-control") == [
                docs_page.CACHE_CONTROL if name == "asset" else "no-store"
            ], name
            assert "Authorization" not in vary, name


@pytest.mark.spec("cors.vary")
def test_every_response_varies_by_origin(owner: Caller, anonymous: Caller) -> None:
    for name, response in all_responses(owner, anonymous).items():
        assert "Origin" in response.headers["vary"].split(", "), name


@pytest.mark.spec("headers.request-id")
def test_every_response_has_a_unique_request_id(owner: Caller, anonymous: Caller) -> None:
    answers = all_responses(owner, anonymous).values()
    ids = {response.headers["x-request-id"] for response in answers}
    assert len(ids) == len(answers)
    assert all(re.fullmatch(r"[0-9a-f]{32}", each) for each in ids)


@pytest.mark.spec("headers.request-id")
@pytest.mark.parametrize("request_id", ["x", "A-1_b.c", "0" * 128])
def test_a_valid_request_id_of_the_client_is_kept(anonymous: Caller, request_id: str) -> None:
    response = anonymous.get(headers={"X-Request-ID": request_id})
    assert response.headers["x-request-id"] == request_id
    assert response.json()["instance"] == request_id


@pytest.mark.spec("headers.request-id")
@pytest.mark.parametrize("request_id", ["", "0" * 129, "a b", "a/b", "<script>", "é", "a\tb", "a,b"])
def test_an_invalid_request_id_is_replaced(anonymous: Caller, request_id: str) -> None:
    response = anonymous.client.get(TASKS, headers=[(b"X-Request-ID", request_id.encode("latin-1"))])
    assert re.fullmatch(r"[0-9a-f]{32}", response.headers["x-request-id"])


@pytest.mark.spec("headers.request-id")
def test_repeated_request_ids_are_replaced(anonymous: Caller) -> None:
    response = anonymous.client.get(TASKS, headers=[("X-Request-ID", "a"), ("X-Request-ID", "b")])
    assert re.fullmatch(r"[0-9a-f]{32}", response.headers["x-request-id"])


@pytest.mark.spec("headers.server-timing")
def test_only_successful_database_requests_have_server_timing(owner: Caller, anonymous: Caller) -> None:
    answers = all_responses(owner, anonymous)
    del answers["ready"]  # May be cached from within the last second.
    timed = {name: answer for name, answer in answers.items() if "server-timing" in answer.headers}
    assert timed.keys() == {"200", "201", "204"}
    for answer in timed.values():
        assert re.fullmatch(r"db;dur=\d+\.\d, wait;dur=\d+\.\d", answer.headers["server-timing"])


@pytest.mark.spec("headers.server-timing")
def test_the_time_to_open_a_connection_is_waiting(serve: Serve, database_proxy: ProtocolProxy) -> None:
    caller = client_as(serve(database_url=libpq_url(database_proxy.url), db_pool_size=1), "somebody")
    database_proxy.held = True
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(caller.get)
        wait_until(lambda: database_proxy.connections_opened, "no connection is opened")
        held_at = time.monotonic()
        wait_until(lambda: time.monotonic() > held_at + 0.1, "the clock does not advance")
        database_proxy.held = False
    timing = re.fullmatch(r"db;dur=\d+\.\d, wait;dur=(\d+\.\d)", answer.result().headers["server-timing"])
    assert timing
    assert float(timing[1]) >= 100


@pytest.mark.spec("headers.utf8")
def test_json_is_utf8(owner: Caller) -> None:
    response = owner.post(new_task(title="naïve ✓ 😀"))
    assert ok(response, 201)
    assert "naïve ✓ 😀".encode() in response.content
    assert response.headers["content-type"] == "application/json"


KNOWN_HEADERS = {
    "access-control-allow-credentials",
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-allow-origin",
    "access-control-expose-headers",
    "access-control-max-age",
    "allow",
    "cache-control",
    "content-length",
    "content-security-policy",
    "content-type",
    "etag",
    "link",
    "location",
    "permissions-policy",
    "referrer-policy",
    "server-timing",
    "strict-transport-security",
    "tasks-position",
    "vary",
    "www-authenticate",
    "x-content-type-options",
    "x-frame-options",
    "x-request-id",
}


@pytest.mark.spec("tasks.isolation", "headers.security")
def test_responses_have_only_specified_headers(owner: Caller, anonymous: Caller) -> None:
    """An additional header could leak data of other users, such as counts."""
    for name, answer in all_responses(owner, anonymous).items():
        assert set(answer.headers) <= KNOWN_HEADERS, name
