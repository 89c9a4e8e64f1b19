"""The page at /docs and its assets, without a browser; see tests/frontend/ for tests in a browser."""

import asyncio
import hashlib
import re

import pytest
from starlette.types import Message

from main import create_app
from tests.conftest import MakeSettings
from tests.support import Caller, assert_problem
from web import docs_page

SOURCE = re.compile(r'(?:src|href)="([^"]+)"')
TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}

STYLE = next(path for path in docs_page.assets() if path.endswith(".css"))


@pytest.mark.spec("contract.docs")
def test_the_docs_page_is_served(anonymous: Caller) -> None:
    page = anonymous.get("/docs")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert set(SOURCE.findall(page.text)) == {"data:,", *docs_page.assets()}
    assert re.findall(r"<script[^>]*>[^<]|<style| on\w+=", page.text) == []


@pytest.mark.spec("contract.docs", "headers.security")
def test_the_content_security_policy_forbids_other_hosts(anonymous: Caller) -> None:
    policy = anonymous.get("/docs").headers["content-security-policy"]
    sources = {name: values for name, *values in map(str.split, policy.split(";"))}
    assert sources["default-src"] == ["'none'"]
    assert sources["script-src"] == sources["connect-src"] == ["'self'"]
    assert {value for values in sources.values() for value in values} <= {"'none'", "'self'", "data:"}


@pytest.mark.spec("contract.docs.assets", "http.head")
@pytest.mark.parametrize("path", docs_page.assets())
def test_assets_are_immutable_for_a_year(anonymous: Caller, path: str) -> None:
    response = anonymous.get(path)
    assert response.status_code == 200
    assert hashlib.sha256(response.content).hexdigest().startswith(path.split("/")[-2])
    assert response.headers["content-type"] == TYPES[path[path.rindex(".") :]]
    assert int(response.headers["content-length"]) == len(response.content)
    assert response.headers["cache-control"] == "public, max-age=31536000, immutable"
    head = anonymous.request("HEAD", path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == response.headers["content-length"]


@pytest.mark.spec("contract.docs.assets", "http.unread-answer")
@pytest.mark.parametrize("path", docs_page.assets())
def test_assets_are_sent_in_chunks(make_settings: MakeSettings, path: str) -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "asgi": {"spec_version": "2.4"}, "method": "GET", "path": path,
             "query_string": b"", "headers": []}  # fmt: skip
    asyncio.run(create_app(make_settings())(scope, receive, send))
    pieces = [message.get("body", b"") for message in sent[1:]]
    assert sent[0]["status"] == 200
    assert max(map(len, pieces)) <= 64 * 1024
    assert b"".join(pieces) == docs_page.assets()[path].content


@pytest.mark.spec("contract.docs.assets", "problems.unknown-path")
@pytest.mark.parametrize(
    "path",
    [
        docs_page.PREFIX,
        f"{docs_page.PREFIX}/",
        STYLE.replace(".css", ".css.map"),
        STYLE.replace("swagger-ui.css", "docs_page.js"),
        STYLE.replace("swagger-ui.css", ""),
        STYLE.replace("swagger-ui.css", "%2e%2e%2fLICENSE"),
        f"{docs_page.PREFIX}/0/swagger-ui.css",
        f"{docs_page.PREFIX}/../../settings.py",
        f"{STYLE}%00",
        f"{STYLE}/",
    ],
)
def test_other_asset_paths_are_not_found(anonymous: Caller, path: str) -> None:
    response = anonymous.get(path)
    assert_problem(response, 404, "not-found")
    assert response.headers["cache-control"] == "no-store"


@pytest.mark.spec("contract.docs.assets", "problems.method")
def test_assets_allow_only_get_and_head(anonymous: Caller) -> None:
    response = anonymous.request("POST", STYLE)
    assert_problem(response, 405, "method-not-allowed")
    assert response.headers["allow"] == "GET, HEAD"
