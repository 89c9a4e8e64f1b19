"""Requests that are cheap to send and meant to be expensive to answer; each must be answered promptly."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from httpx2 import Response

from tests.hostile.raw_http import (
    Target,
    chunked,
    content_length,
    new_token,
    parametrize_cases,
    post_task,
    request,
    request_with_id,
    statuses_and_ids,
)
from tests.process.test_connections import worker_pid
from tests.support import assert_problem

SECONDS = 0.3
"""CPU time of the worker; the most expensive test takes 0.13, on a busy machine 0.19."""

LIMIT = 65_536

BODY = b'{"title": "x"}'


@pytest.fixture(scope="module")
def token() -> str:
    return new_token("owner")


@pytest.fixture(autouse=True)
def answered_promptly(target: Target) -> Iterator[None]:
    """Bound the worker's CPU time in each test, which does not depend on the machine's other load."""
    worker = worker_pid(target.service.process.pid)
    before = processor_seconds(worker)
    yield
    assert processor_seconds(worker) - before < SECONDS


def processor_seconds(process: int) -> float:
    user, system = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def post(target: Target, token: str, body: bytes) -> Response:
    return target.send(post_task("first", token, content_length(body), body=body))


def body_with_field(name: str, value: str) -> bytes:
    return f'{{"title": "x", "{name}": {value}}}'.encode()


def repeat_to_limit(start: str, item: str, end: str) -> bytes:
    """Repeat `item` up to the body limit."""
    room = LIMIT - len(start.encode()) - len(end.encode())
    return (start + item * (room // len(item.encode())) + end).encode()


MALFORMED = {
    "arrays in arrays": b"[" * LIMIT,
    "objects in objects": b'{"a":' * (LIMIT // 5),
    "whole arrays in arrays": b'{"title": ' + b"[" * 30_000 + b"]" * 30_000 + b"}",
    "arrays in arrays of a tag": body_with_field("tags", "[" * 20_000 + "]" * 20_000),
    "integer of 60,000 digits": body_with_field("completed", "9" * 60_000),
    "integer of 4,301 digits": body_with_field("completed", "9" * 4301),
    "NaN": body_with_field("completed", "NaN"),
    "minus infinity": body_with_field("completed", "-Infinity"),
    "one name 7,000 times": b"{" + b'"a":1,' * 7000 + b'"title":"x"}',
    "title twice": b'{"title":"x","title":"y"}',
    "title twice, once escaped": b'{"title":"x","\\u0074itle":"y"}',
    "half a pair many times": repeat_to_limit('{"title": "', "\\ud800", '"}'),
    "not UTF-8": b'{"title": "' + b"\xff" * 60_000 + b'"}',
    "NUL bytes": b"\0" * LIMIT,
    "spaces": b" " * LIMIT,
    "unterminated string": b'{"title": "' + b"\\\\" * 30_000,
}


@parametrize_cases(MALFORMED)
@pytest.mark.spec("http.malformed")
def test_a_malformed_body_is_refused(target: Target, token: str, case: bytes) -> None:
    assert len(case) <= LIMIT
    assert_problem(post(target, token, case), 400, "malformed-body")


def equal_hashes(count: int) -> list[str]:
    """Names that collide under the polynomial hash with base 31."""
    pairs = ["Ez", "FY"]
    names = [""]
    while len(names) < count:
        names = [name + pair for name in names for pair in pairs]
    return names


INVALID = {
    "many names": json.dumps({f"a{number}": 1 for number in range(5000)}).encode(),
    "many names of equal hash": json.dumps(dict.fromkeys(equal_hashes(2048), 1)).encode(),
    "many names that are numbers": json.dumps({str(n * (2**61 - 1)): 1 for n in range(2000)}).encode(),
    "a long name": json.dumps({"title": "x", "a" * 60_000: 1}).encode(),
    "long exponent": body_with_field("completed", "1e" + "9" * 4000),
    "large number": body_with_field("completed", "1e400"),
    "long fraction": body_with_field("completed", "0." + "9" * 60_000),
    "many tags": body_with_field("tags", json.dumps([f"{n}" for n in range(8000)])),
    "one tag 8,000 times": body_with_field("tags", json.dumps(["same"] * 8000)),
    "a long tag": body_with_field("tags", json.dumps(["t" * 60_000])),
    "tags that are objects": body_with_field("tags", json.dumps([{}] * 20_000, separators=(",", ":"))),
    "title of spaces": repeat_to_limit('{"title": "', " ", '"}'),
    "title of every space": repeat_to_limit('{"title": "', " \u2003\u3000\u00a0", '"}'),
    "long title between spaces": repeat_to_limit('{"title": "' + "x" * 201, " ", 'x"}'),
    "title with ink at each end": body_with_field("description", "1").replace(
        b'"x"', b'"x' + b" " * 60_000 + b'x"'
    ),
    "title of spaces and a NUL": repeat_to_limit('{"title": "', " ", '\\u0000"}'),
    "title of combining marks": repeat_to_limit('{"title": "', "\u0301", '"}'),
    "long description": repeat_to_limit('{"title": "x", "description": "', "d", '"}'),
    "description of NULs": repeat_to_limit('{"title": "x", "description": "', "\\u0000", '"}'),
    "long timestamp": body_with_field("due_at", json.dumps("2030-01-01T00:00:00." + "0" * 60_000 + "Z")),
    "timestamp of offsets": body_with_field("due_at", json.dumps("2030-01-01T00:00:00" + "+00:00" * 10_000)),
    "long priority": body_with_field("priority", json.dumps("high" * 15_000)),
}


@parametrize_cases(INVALID)
def test_a_large_invalid_body_is_refused(target: Target, token: str, case: bytes) -> None:
    assert len(case) <= LIMIT
    answer = post(target, token, case)
    assert_problem(answer, 422, "invalid-request")
    assert len(answer.content) < 10_000


def test_a_title_with_much_surrounding_white_space_is_trimmed(target: Target, token: str) -> None:
    space = "\t\u2003\u00a0 " * 3000
    body = json.dumps({"title": f"{space}{'x' * 200}{space}"}, ensure_ascii=False).encode()
    assert post(target, token, body).json()["title"] == "x" * 200


@pytest.mark.parametrize("framing", ["length", "chunks"])
@pytest.mark.spec("http.body-limit")
def test_a_body_over_the_limit_is_refused_early(target: Target, token: str, framing: str) -> None:
    body = b"x" * 1_000_000
    message = (
        post_task("first", token, content_length(body), body=body)
        if framing == "length"
        else post_task("first", token, "Transfer-Encoding: chunked", body=chunked(body))
    )
    answers = target.exchange(message)
    assert statuses_and_ids(answers) in ([(413, "first")], [(413, "first"), (200, "last")])
    assert_problem(answers[0], 413, "body-too-large")


@pytest.mark.parametrize("digits", [20, 4300, 4301, 5000, 8000])
@pytest.mark.spec("http.malformed-framing")
def test_a_content_length_of_many_digits_is_refused(target: Target, token: str, digits: int) -> None:
    [answer] = target.exchange(post_task("first", token, f"Content-Length: {'9' * digits}", body=BODY))
    assert answer.status_code in {400, 413}


@pytest.mark.spec("http.malformed-framing")
def test_a_pipelined_content_length_of_many_digits_is_refused(target: Target, token: str) -> None:
    """gunicorn parses pipelined bytes from its connection loop, not from `data_received`."""
    first = request_with_id("first", "GET /health/live HTTP/1.1")
    answers = target.exchange(first + post_task("second", token, f"Content-Length: {'9' * 5000}", body=BODY))
    assert statuses_and_ids(answers)[0] == (200, "first")
    assert [answer.status_code for answer in answers[1:]] in ([400], [413])


@pytest.mark.spec("http.pieces")
def test_the_number_of_chunks_is_bounded(target: Target, token: str) -> None:
    body = BODY + b" " * 3000
    message = post_task("first", token, "Transfer-Encoding: chunked", body=one_byte_chunks(body))
    [answer] = target.exchange(message)
    assert answer.status_code == 400


def test_a_few_one_byte_chunks_are_accepted(target: Target, token: str) -> None:
    message = post_task("first", token, "Transfer-Encoding: chunked", body=one_byte_chunks(BODY))
    assert statuses_and_ids(target.exchange(message)) == [(201, "first"), (200, "last")]


@pytest.mark.spec("http.pieces")
def test_the_chunks_of_each_body_are_counted_on_their_own(target: Target, token: str) -> None:
    """One connection may carry any number of bodies."""
    names = [str(number) for number in range(100)]
    messages = [
        post_task(name, token, "Transfer-Encoding: chunked", body=one_byte_chunks(BODY)) for name in names
    ]
    answers = statuses_and_ids(target.exchange(b"".join(messages)))
    assert answers == [*((201, name) for name in names), (200, "last")]


def one_byte_chunks(body: bytes) -> bytes:
    return chunked(*(body[at : at + 1] for at in range(len(body))))


@pytest.mark.spec("http.pieces")
def test_endless_chunks_are_refused(target: Target, token: str) -> None:
    message = post_task("first", token, "Transfer-Encoding: chunked", body=b"1\r\n \r\n" * 200_000)
    [answer] = target.exchange(message)
    assert answer.status_code == 400


def test_chunk_extensions_are_bounded(target: Target, token: str) -> None:
    body = b"e;" + b"a" * 1_000_000
    [answer] = target.exchange(post_task("first", token, "Transfer-Encoding: chunked", body=body))
    assert answer.status_code == 400


def test_trailers_are_bounded(target: Target, token: str) -> None:
    body = b"e\r\n%b\r\n0\r\n%b\r\n" % (BODY, b"X: y\r\n" * 10_000)
    [answer] = target.exchange(post_task("first", token, "Transfer-Encoding: chunked", body=body))
    assert answer.status_code == 431


@pytest.mark.parametrize(("count", "status"), [(97, 200), (98, 431), (10_000, 431)])
@pytest.mark.spec("http.headers-limit")
def test_the_number_of_headers_is_bounded(target: Target, count: int, status: int) -> None:
    """gunicorn's `limit_request_fields` is 100, and each request here has another three."""
    fields = [f"X-{number}: y" for number in range(count)]
    message = request("GET /health/live HTTP/1.1", "X-Request-ID: first", "Accept: */*", *fields)
    expected = [(200, "first"), (200, "last")] if status == 200 else [(431, None)]
    assert statuses_and_ids(target.exchange(message)) == expected


@pytest.mark.parametrize("name", ["Cookie", "Accept", "X-Forwarded-For", "Authorization", "Content-Type"])
@pytest.mark.spec("http.headers-limit")
def test_the_size_of_a_header_is_bounded(target: Target, name: str) -> None:
    assert statuses_and_ids(
        target.exchange(request_with_id("first", "GET /health/live HTTP/1.1", f"{name}: {'a' * 9000}"))
    ) == [(431, None)]


@pytest.mark.parametrize(("count", "status"), [(3, 200), (5, 431), (90, 431)])
@pytest.mark.spec("http.headers-limit")
def test_the_size_of_all_headers_is_bounded(target: Target, count: int, status: int) -> None:
    """32 KiB together, whether they arrive in one read or in several."""
    fields = [f"X-{number}: {'y' * 8000}" for number in range(count)]
    expected = [(200, "first"), (200, "last")] if status == 200 else [(431, None)]
    assert (
        statuses_and_ids(target.exchange(request_with_id("first", "GET /health/live HTTP/1.1", *fields)))
        == expected
    )


MEDIA_TYPES = {
    "spaces": f"application/json{' ' * 8000}x",
    "parameters": f"application/json{'; a=b' * 1500};",
    "semicolons": f"application/json{';' * 8000}",
    "spaces and semicolons": f"application/json{' ;' * 4000}",
    "quotes": f"application/json; a={chr(34) * 8000}",
    "word": "a" * 8000,
    "slashes": "a/" * 4000,
    "charsets": f"application/json{'; charset=utf-8' * 500}; charset=x",
}


@parametrize_cases(MEDIA_TYPES)
def test_a_long_media_type_is_refused(target: Target, token: str, case: str) -> None:
    message = post_task("first", token, content_length(BODY), body=BODY, media_type=case)
    assert_problem(target.send(message), 415, "unsupported-media-type")


QUERIES = {
    "many names": "&".join(f"a{number}" for number in range(700)),
    "one name often": "&".join(["limit=1"] * 450),
    "ampersands": "&" * 3900 + "x=1",
    "equals signs": "=" * 3900,
    "escapes": "a=" + "%26" * 1200,
    "broken escapes": "a=" + "%" * 3800,
    "long limit": "limit=" + "1" * 3800,
    "limit in other digits": "limit=" + "%D9%A1" * 600,
    "long flag": "completed=" + "true" * 900,
}


@parametrize_cases(QUERIES)
@pytest.mark.spec("tasks.list.query")
def test_a_large_query_is_refused(target: Target, token: str, case: str) -> None:
    message = request_with_id("first", f"GET /api/tasks?{case} HTTP/1.1", f"Authorization: Bearer {token}")
    answer = target.send(message)
    assert_problem(answer, 422, "invalid-request")
    assert len(answer.content) < 10_000


CURSORS = {
    "long": "A" * 3800,
    "padding": "=" * 3800,
    "deep": "W1tb" * 900,
    "NUL": "%00" * 1000,
    "other alphabet": "%2B%2F" * 600,
}


@parametrize_cases(CURSORS)
def test_a_large_cursor_is_refused(target: Target, token: str, case: str) -> None:
    message = request_with_id(
        "first", f"GET /api/tasks?cursor={case} HTTP/1.1", f"Authorization: Bearer {token}"
    )
    assert_problem(target.send(message), 400, "invalid-cursor")


RANGES = {
    "first byte": "bytes=0-0",
    "many": "bytes=" + ",".join(["0-"] * 2000),
    "overlapping": "bytes=" + ",".join(f"{number}-" for number in range(1500)),
    "suffixes": "bytes=" + ",".join(f"-{number}" for number in range(1500)),
    "reversed": "bytes=9-0",
    "huge": f"bytes=0-{'9' * 5000}",
    "unit": f"{'a' * 5000}=0-0",
}


@parametrize_cases(RANGES)
def test_ranges_are_ignored(target: Target, case: str) -> None:
    whole = target.send(request_with_id("first", "GET /openapi.json HTTP/1.1"))
    answer = target.send(
        request_with_id("first", "GET /openapi.json HTTP/1.1", f"Range: {case}", "If-Range: x")
    )
    assert answer.status_code == 200
    assert answer.content == whole.content


FIELDS = {
    "addresses": f"X-Forwarded-For: {'1.1.1.1, ' * 880}1",
    "codings": f"Accept-Encoding: {'gzip;q=0.1, ' * 650}x",
    "languages": f"Accept-Language: {'*;q=0.1, ' * 880}x",
    "cookies": f"Cookie: {'a=b; ' * 1600}",
    "conditions": f"If-None-Match: {', '.join(['W/x'] * 1600)}",
    "date": f"If-Modified-Since: {'1' * 8000}",
    "priorities": f"Priority: {'u=' * 4000}",
    "expectations": f"Expect: {'100-continue, ' * 560}",
    "connection": f"Connection: {'keep-alive, ' * 650}x",
    "baggage": f"traceparent: 00-{'0' * 8000}-01",
}


@parametrize_cases(FIELDS)
def test_a_large_unused_header_is_ignored(target: Target, case: str) -> None:
    answers = target.exchange(request_with_id("first", "GET /health/live HTTP/1.1", case))
    assert statuses_and_ids(answers) == [(200, "first"), (200, "last")]


def test_many_pipelined_requests_are_answered_in_order(target: Target) -> None:
    answers = target.exchange(
        b"".join(request_with_id(f"{n}", "GET /health/live HTTP/1.1") for n in range(250))
    )
    assert statuses_and_ids(answers) == [*((200, f"{n}") for n in range(250)), (200, "last")]
