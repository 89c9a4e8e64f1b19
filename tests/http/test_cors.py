"""Cross-origin requests (CORS)."""

from collections.abc import Mapping
from typing import Any

import pytest
from httpx2 import Response
from starlette.testclient import TestClient

from tests.conftest import Serve
from tests.http.test_headers import all_responses
from tests.support import TASKS, Caller, assert_problem

ALLOWED = "https://app.example.com"
EXPOSED = {
    "Allow",
    "ETag",
    "Idempotency-Replayed",
    "Link",
    "Location",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "Server-Timing",
    "Tasks-Position",
    "WWW-Authenticate",
    "X-Request-ID",
}


def preflight(client: TestClient, **headers: str) -> Response:
    asked = {"Origin": ALLOWED, "Access-Control-Request-Method": "GET", **headers}
    return client.options(TASKS, headers={name.replace("_", "-"): value for name, value in asked.items()})


class Browser(Caller):
    """Sends requests with the allowed origin."""

    def request(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, **kwargs: Any
    ) -> Response:
        return super().request(method, path, headers={"Origin": ALLOWED, **(headers or {})}, **kwargs)


@pytest.mark.spec("cors.allowed", "cors.expose")
def test_an_allowed_origin_can_read_every_response(owner: Caller) -> None:
    signed_in = Browser(owner.client, owner.user_id, owner.token)
    signed_out = Browser(owner.client, "", None)
    for name, response in all_responses(signed_in, signed_out).items():
        if name == "bad preflight":
            continue
        assert response.headers["access-control-allow-origin"] == ALLOWED, name
        assert response.headers["access-control-allow-credentials"] == "true", name
        assert set(response.headers["access-control-expose-headers"].split(", ")) == EXPOSED, name


@pytest.mark.spec("cors.refused")
@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "http://app.example.com",
        "https://app.example.com:8443",
        "https://app.example.com.evil.example",
        "https://APP.example.com",
        "null",
        "",
        "https://app.example.com/",
        "*",
    ],
)
def test_another_origin_cannot_read_responses(client: TestClient, origin: str) -> None:
    for response in (
        client.get(TASKS, headers={"Origin": origin}),
        client.get("/health/live", headers={"Origin": origin}),
    ):
        assert "access-control-allow-origin" not in response.headers
    response = preflight(client, Origin=origin)
    assert "access-control-allow-origin" not in response.headers


@pytest.mark.spec("cors.refused")
def test_without_origins_none_is_allowed(serve: Serve) -> None:
    client = serve(cors_origins=None)
    assert "access-control-allow-origin" not in client.get(TASKS, headers={"Origin": ALLOWED}).headers


@pytest.mark.spec("cors.allowed")
def test_several_origins_may_be_allowed(serve: Serve) -> None:
    client = serve(cors_origins="http://localhost:3000, https://app.example.com")
    for origin in ("http://localhost:3000", ALLOWED):
        response = client.get(TASKS, headers={"Origin": origin})
        assert response.headers["access-control-allow-origin"] == origin


@pytest.mark.spec("cors.preflight")
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
def test_a_preflight_is_answered(client: TestClient, method: str) -> None:
    response = preflight(
        client,
        Access_Control_Request_Method=method,
        Access_Control_Request_Headers="authorization,content-type,if-match,if-none-match,x-request-id",
    )
    assert (response.status_code, response.content) == (204, b"")
    assert response.headers["access-control-allow-origin"] == ALLOWED
    assert response.headers["access-control-allow-credentials"] == "true"
    assert set(response.headers["access-control-allow-methods"].split(", ")) == {
        "GET",
        "POST",
        "PUT",
        "PATCH",
        "DELETE",
    }
    allowed = {name.lower() for name in response.headers["access-control-allow-headers"].split(", ")}
    assert {"authorization", "content-type", "x-request-id"} <= allowed


@pytest.mark.spec("cors.preflight")
@pytest.mark.parametrize("header", ["accept", "accept-language", "content-language"])
def test_a_preflight_may_request_safelisted_headers(client: TestClient, header: str) -> None:
    assert preflight(client, Access_Control_Request_Headers=header).status_code == 204


@pytest.mark.spec("cors.preflight")
@pytest.mark.parametrize("path", [f"{TASKS}/1", "/health/live", "/nowhere"])
def test_a_preflight_is_answered_whatever_the_path(client: TestClient, path: str) -> None:
    headers = {"Origin": ALLOWED, "Access-Control-Request-Method": "DELETE"}
    assert client.options(path, headers=headers).status_code == 204


@pytest.mark.spec("cors.preflight")
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Access_Control_Request_Method": "TRACE"},
        {"Access_Control_Request_Headers": "x-other"},
    ],
)
def test_another_preflight_is_refused(client: TestClient, headers: dict[str, str]) -> None:
    assert_problem(preflight(client, **headers), 400, "cors-refused")
