"""Request smuggling: bytes that a proxy and gunicorn might frame differently (RFC 9112, sections 6, 11.2).

Every exchange ends with a request that asks for `Connection: close`. Either it is
answered last, so all bytes before it were framed as intended, or gunicorn closed
the connection at the first malformed byte. A smuggled request is never answered.
"""

from contextlib import closing

import pytest
from httpx2 import Response

from tests.hostile.raw_http import (
    CLOSING_REQUEST,
    SMUGGLED_REQUEST,
    Target,
    chunked,
    content_length,
    new_token,
    parametrize_cases,
    parse_responses,
    post_task,
    read_until_closed,
    request,
    request_with_id,
    statuses_and_ids,
)

BODY = b'{"title": "x"}'
CHUNKED = "Transfer-Encoding: chunked"
GET = "GET /health/live HTTP/1.1"

SERVED = [(201, "first"), (200, "last")]

TWO_FRAMINGS = {
    "both, the length first": [content_length(BODY), CHUNKED],
    "both, the coding first": [CHUNKED, content_length(BODY)],
    "both, length zero": ["Content-Length: 0", CHUNKED],
    "the same length twice": [content_length(BODY), content_length(BODY)],
    "two lengths": [content_length(BODY), "Content-Length: 3"],
    "the same length twice, in other case": [content_length(BODY), content_length(BODY).lower()],
    "a list of lengths": ["Content-Length: 14, 14"],
    "the coding twice": [CHUNKED, CHUNKED],
    "the coding twice in a list": ["Transfer-Encoding: chunked, chunked"],
    "identity after chunked": [CHUNKED, "Transfer-Encoding: identity"],
}

LENGTHS = {
    "plus": "+14",
    "minus": "-14",
    "minus zero": "-0",
    "hexadecimal": "0xe",
    "underscore": "1_4",
    "fraction": "14.0",
    "exponent": "14e0",
    "inner space": "1 4",
    "trailing comma": "14,",
    "empty": "",
    "blank": "   ",
    "vertical tab": "\x0b14",
    "no-break space": "\xa014",
    "superscript": "\xb9\xb4",
    "quoted": '"14"',
    "infinity": "inf",
}

CODINGS = {
    "identity": "identity",
    "gzip": "gzip",
    "chunked, then gzip": "chunked, gzip",
    "gzip, then chunked": "gzip, chunked",
    "identity, then chunked": "identity, chunked",
    "unknown": "cow",
    "unknown, then chunked": "cow, chunked",
    "a prefix": "xchunked",
    "a suffix": "chunkedx",
    "a parameter": "chunked;q=1",
    "quoted": '"chunked"',
    "empty": "",
    "only a comma": ",",
    "leading comma": ",chunked",
    "trailing comma": "chunked,",
    "vertical tab": "\x0bchunked",
    "no-break space": "\xa0chunked",
    "NUL": "chunked\x00",
}

DISGUISES = {
    "space before the colon": "Transfer-Encoding : chunked",
    "tab before the colon": "Transfer-Encoding\t: chunked",
    "leading space": " Transfer-Encoding: chunked",
    "leading vertical tab": "\x0bTransfer-Encoding: chunked",
    "NUL in the name": "Transfer-Encoding\x00: chunked",
    "bare CR in the name": "Transfer-\rEncoding: chunked",
    "bare CR before the line": "X: y\rTransfer-Encoding: chunked",
    "bare LF before the line": "X: y\nTransfer-Encoding: chunked",
    "folded value": "Transfer-Encoding:\r\n chunked",
    "folded into another field": "X: y\r\n Transfer-Encoding: chunked",
    "no colon": "Transfer-Encoding chunked",
    "no name": ": chunked",
}

LINE_ENDS = {
    "bare LF throughout": request(GET, "X: y").replace(b"\r\n", b"\n"),
    "bare LF after the request line": request(GET).replace(b"\r\n", b"\n", 1),
    "bare LF after a field": request(GET, "X: y\nZ: a"),
    "bare LF at the end": request(GET)[:-2] + b"\n",
    "bare CR after the request line": request(GET).replace(b"\r\n", b"\r", 1),
    "bare CR in a field": request(GET, "X: y\rZ: a"),
    "CR CR LF": request(GET).replace(b"\r\n", b"\r\r\n", 1),
    "folded field": request(GET, "X: y", " z"),
    "field folded with a tab": request(GET, "X: y", "\tz"),
    "folded before any field": request(GET, " X: y", host=""),
    "two empty lines before": b"\r\n\r\n" + request(GET),
    "LF before": b"\n" + request(GET),
    "CR before": b"\r" + request(GET),
    "space before": b" " + request(GET),
    "NUL before": b"\0" + request(GET),
}

REQUEST_LINES = {
    "HTTP/0.9": "GET /health/live HTTP/0.9",
    "HTTP/1.2": "GET /health/live HTTP/1.2",
    "HTTP/2.0": "GET /health/live HTTP/2.0",
    "HTTP/2's preface": "PRI * HTTP/2.0",
    "HTTP/1.01": "GET /health/live HTTP/1.01",
    "HTTP/1.1x": "GET /health/live HTTP/1.1x",
    "lower-case protocol": "GET /health/live http/1.1",
    "another protocol": "GET /health/live ICY/1.1",
    "no version": "GET /health/live",
    "space at the end": "GET /health/live HTTP/1.1 ",
    "space in the target": "GET /health/live x HTTP/1.1",
    "tab for the first space": "GET\t/health/live HTTP/1.1",
    "tab for the second space": "GET /health/live\tHTTP/1.1",
    "lower-case method": "get /health/live HTTP/1.1",
    "control character in the method": "G\x01ET /health/live HTTP/1.1",
    "delimiter in the method": "GE(T /health/live HTTP/1.1",
    "long method": f"{'A' * 21} /health/live HTTP/1.1",
    "control character in the target": "GET /health\x01/live HTTP/1.1",
    "NUL in the target": "GET /health\x00/live HTTP/1.1",
    "bytes above ASCII in the target": "GET /h\xe9alth HTTP/1.1",
    "asterisk with GET": "GET * HTTP/1.1",
    "authority with GET": "GET tasks.example:80 HTTP/1.1",
    "relative target": "GET health/live HTTP/1.1",
}

FIELDS = {
    "NUL in a value": "X: a\x00b",
    "escape in a value": "X: a\x1bb",
    "DEL in a value": "X: a\x7fb",
    "space in a name": "X Y: a",
    "delimiter in a name": "X(Y): a",
    "byte above ASCII in a name": "X\xe9: a",
    "a second Host": "Host: evil.example",
    "a second Content-Type": "Content-Type: a/b\r\nContent-Type: a/b",
}

CHUNKS = {
    "0x": b"0xe\r\n%b\r\n0\r\n\r\n",
    "plus": b"+e\r\n%b\r\n0\r\n\r\n",
    "minus": b"-e\r\n%b\r\n0\r\n\r\n",
    "leading space": b" e\r\n%b\r\n0\r\n\r\n",
    "trailing space": b"e \r\n%b\r\n0\r\n\r\n",
    "no size": b"\r\n%b\r\n0\r\n\r\n",
    "comma": b"e,e\r\n%b\r\n0\r\n\r\n",
    "underscore": b"0_e\r\n%b\r\n0\r\n\r\n",
    "NUL": b"e\0\r\n%b\r\n0\r\n\r\n",
    "LF after the size": b"e\n%b\r\n0\r\n\r\n",
    "CR after the size": b"e\r%b\r\n0\r\n\r\n",
    "LF after the data": b"e\r\n%b\n0\r\n\r\n",
    "CR after the data": b"e\r\n%b\r0\r\n\r\n",
    "nothing after the data": b"e\r\n%b0\r\n\r\n",
    "data longer than its size": b"3\r\n%b\r\n0\r\n\r\n",
    "LF after the last size": b"e\r\n%b\r\n0\n\r\n",
    "LF at the end": b"e\r\n%b\r\n0\r\n\n",
    "bare LF in an extension": b"e;a\nb\r\n%b\r\n0\r\n\r\n",
    "bare CR in an extension": b"e;a\rb\r\n%b\r\n0\r\n\r\n",
    "length in a trailer": b"e\r\n%b\r\n0\r\nContent-Length: 3\r\n\r\n",
    "coding in a trailer": b"e\r\n%b\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "credentials in a trailer": b"e\r\n%b\r\n0\r\nAuthorization: Bearer x\r\n\r\n",
    "bare LF in a trailer": b"e\r\n%b\r\n0\r\nX: a\nY: b\r\n\r\n",
}

LENIENT_CHUNKS = {
    "space before an extension": b"e ;a\r\n%b\r\n0\r\n\r\n",
    "malformed extension": b"e;=\r\n%b\r\n0\r\n\r\n",
    "NUL in an extension": b"e;a\0\r\n%b\r\n0\r\n\r\n",
    "unterminated string in an extension": b'e;a="b\r\n%b\r\n0\r\n\r\n',
    "string over the line's end": b'e\r\n%b\r\n0;a="b\r\nc"\r\n\r\n',
    "folded length in a trailer": b"e\r\n%b\r\n0\r\n Content-Length: 3\r\n\r\n",
    "bare CR in a trailer": b"e\r\n%b\r\n0\r\nX: a\rb\r\n\r\n",
    "long extension": b"e;" + b"a" * 9000 + b"\r\n%b\r\n0\r\n\r\n",
}

LENIENT_LINES = {
    "two spaces before the target": "GET  /health/live HTTP/1.1",
    "two spaces before the version": "GET /health/live  HTTP/1.1",
}


def assert_rejected(answers: list[Response]) -> None:
    """gunicorn answers by itself, without a request ID, and closes the connection."""
    assert statuses_and_ids(answers) in ([(400, None)], [(501, None)])


def assert_rejected_or_served(answers: list[Response]) -> None:
    """The parsers differ in whether they accept it, not in where the message ends."""
    assert statuses_and_ids(answers) in (
        [(400, None)],
        [(431, None)],
        SERVED,
        [(200, "first"), (200, "last")],
    )


@parametrize_cases(TWO_FRAMINGS)
@pytest.mark.spec("http.malformed-framing")
def test_ambiguous_framing_is_refused(target: Target, owner_token: str, case: list[str]) -> None:
    for body in (chunked(BODY), BODY, chunked() + SMUGGLED_REQUEST):
        assert_rejected(target.exchange(post_task("first", owner_token, *case, body=body)))


@parametrize_cases(LENGTHS)
@pytest.mark.spec("http.malformed-framing")
def test_a_malformed_length_is_refused(target: Target, owner_token: str, case: str) -> None:
    assert_rejected(target.exchange(post_task("first", owner_token, f"Content-Length: {case}", body=BODY)))


@parametrize_cases(CODINGS)
@pytest.mark.spec("http.transfer-coding")
def test_a_transfer_coding_other_than_chunked_is_refused(target: Target, owner_token: str, case: str) -> None:
    coding = f"Transfer-Encoding: {case}"
    for fields in ([coding], [coding, content_length(BODY)]):
        assert_rejected(target.exchange(post_task("first", owner_token, *fields, body=chunked(BODY))))


@pytest.mark.parametrize("coding", ["gzip, chunked", "identity, chunked", "cow"])
@pytest.mark.spec("http.transfer-coding")
def test_an_unsupported_transfer_coding_gets_501(
    target: Target, parser: str, owner_token: str, coding: str
) -> None:
    """501 (RFC 9112, section 6.1); the C parser answers 400 to a coding that it does not know."""
    [answer] = target.exchange(
        post_task("first", owner_token, f"Transfer-Encoding: {coding}", body=chunked(BODY))
    )
    assert answer.status_code == (400 if (parser, coding) == ("fast", "cow") else 501)


@parametrize_cases(DISGUISES)
def test_a_disguised_transfer_coding_is_refused(target: Target, owner_token: str, case: str) -> None:
    assert_rejected(target.exchange(post_task("first", owner_token, case, content_length(BODY), body=BODY)))


@parametrize_cases(LINE_ENDS)
@pytest.mark.spec("http.malformed-framing")
def test_lines_end_with_crlf_only(target: Target, case: bytes) -> None:
    assert_rejected(target.exchange(case + SMUGGLED_REQUEST))


@parametrize_cases(REQUEST_LINES)
def test_a_malformed_request_line_is_refused(target: Target, case: str) -> None:
    assert_rejected(target.exchange(request(case), SMUGGLED_REQUEST))


@parametrize_cases(LENIENT_LINES)
def test_repeated_spaces_in_a_request_line_do_not_desynchronise(target: Target, case: str) -> None:
    assert_rejected_or_served(target.exchange(request_with_id("first", case)))


@parametrize_cases(FIELDS)
def test_a_malformed_header_is_refused(target: Target, case: str) -> None:
    assert_rejected(target.exchange(request(GET, case), SMUGGLED_REQUEST))


@parametrize_cases(CHUNKS)
@pytest.mark.spec("http.malformed-framing")
def test_a_malformed_chunk_is_refused(target: Target, owner_token: str, case: bytes) -> None:
    """gunicorn refuses the body even though the application is already reading it."""
    answers = target.exchange(post_task("first", owner_token, CHUNKED, body=case % BODY), SMUGGLED_REQUEST)
    assert_rejected(answers)


@parametrize_cases(LENIENT_CHUNKS)
def test_a_lenient_chunk_does_not_desynchronise(target: Target, owner_token: str, case: bytes) -> None:
    assert_rejected_or_served(target.exchange(post_task("first", owner_token, CHUNKED, body=case % BODY)))


@pytest.mark.parametrize("size", ["f" * 16, "f" * 17, "1" + "0" * 16 + "e", "f" * 8000])
def test_a_chunk_size_never_wraps_around(target: Target, owner_token: str, size: str) -> None:
    body = f"{size}\r\n".encode() + BODY * 5_000
    [answer] = target.exchange(post_task("first", owner_token, CHUNKED, body=body))
    assert answer.status_code in {400, 413}


@pytest.mark.parametrize(
    "content_length", [2**63 - 1, 2**63, 2**64 + len(BODY)], ids=["2^63-1", "2^63", "2^64+14"]
)
def test_a_length_never_wraps_around(target: Target, owner_token: str, content_length: int) -> None:
    [answer] = target.exchange(
        post_task("first", owner_token, f"Content-Length: {content_length}", body=BODY)
    )
    assert answer.status_code in {400, 413}


def test_chunks_are_refused_in_http_1_0(target: Target, owner_token: str) -> None:
    message = post_task("first", owner_token, CHUNKED, body=chunked(BODY))
    assert_rejected(target.exchange(message.replace(b"HTTP/1.1", b"HTTP/1.0", 1)))


def test_http_1_0_is_answered_once(target: Target) -> None:
    answers = target.exchange(request_with_id("first", "GET /health/live HTTP/1.0"), SMUGGLED_REQUEST)
    assert statuses_and_ids(answers) == [(200, "first")]


@pytest.mark.parametrize("host", ["", "Host: a, b", "Host: a b", "Host: user@a", "Host: a/b", "Host: a\\b"])
def test_a_malformed_host_is_refused_or_ignored(target: Target, host: str) -> None:
    """No answer is built from Host, so a malformed one may also be ignored."""
    message = request_with_id("first", GET).replace(b"Host: tasks.example", host.encode() or b"X: y")
    answers = target.exchange(message)
    assert statuses_and_ids(answers) in ([(400, None)], [(200, "first"), (200, "last")])
    assert b"user@a" not in b"".join(answer.content for answer in answers)


@pytest.mark.spec("http.host")
def test_http_1_1_without_a_host_is_refused(target: Target) -> None:
    """RFC 9112, section 3.2."""
    assert_rejected(target.exchange(request(GET, host=""), SMUGGLED_REQUEST))


def test_a_request_inside_a_body_with_a_length_is_not_parsed(target: Target, owner_token: str) -> None:
    answers = target.exchange(
        post_task("first", owner_token, content_length(SMUGGLED_REQUEST), body=SMUGGLED_REQUEST)
    )
    assert statuses_and_ids(answers) == [(400, "first"), (200, "last")]


def test_a_request_inside_chunks_is_not_parsed(target: Target, owner_token: str) -> None:
    answers = target.exchange(
        post_task("first", owner_token, CHUNKED, body=chunked(SMUGGLED_REQUEST, SMUGGLED_REQUEST))
    )
    assert statuses_and_ids(answers) == [(400, "first"), (200, "last")]


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_request_inside_an_ignored_body_is_not_parsed(
    target: Target, owner_token: str, method: str
) -> None:
    message = request_with_id(
        "first",
        f"{method} /api/tasks/00000000-0000-7000-8000-000000000000 HTTP/1.1",
        f"Authorization: Bearer {owner_token}",
        content_length(SMUGGLED_REQUEST),
        body=SMUGGLED_REQUEST,
    )
    assert statuses_and_ids(target.exchange(message)) in ([(404, "first")], [(404, "first"), (200, "last")])


@pytest.mark.parametrize("coding", ["length", "chunks"])
@pytest.mark.spec("http.unread-body")
def test_an_early_answer_to_an_unfinished_body_closes_the_connection(target: Target, coding: str) -> None:
    """The rest of the body must not be parsed as the next request."""
    framing, start = ("Content-Length: 100000", b"") if coding == "length" else (CHUNKED, b"186a0\r\n")
    answers = target.exchange(post_task("first", "bad.to.ken", framing, body=start), SMUGGLED_REQUEST)
    assert statuses_and_ids(answers) == [(401, "first")]
    assert answers[0].headers["connection"] == "close"


@pytest.mark.spec("http.unread-body")
def test_a_malformed_chunk_after_an_early_answer_gets_no_second_answer(target: Target) -> None:
    """A proxy would take the second answer for that to its next request."""
    body = (b"%x\r\n" % 60_000 + b"x" * 60_000 + b"\r\n") * 4 + b"XX\r\n"
    answers = target.exchange(post_task("first", "bad.to.ken", CHUNKED, body=body))
    assert statuses_and_ids(answers) in ([(401, "first")], [(400, None)])


def test_an_early_answer_to_a_complete_body_is_the_only_one(target: Target) -> None:
    answers = target.exchange(
        post_task("first", "bad.to.ken", content_length(SMUGGLED_REQUEST), body=SMUGGLED_REQUEST)
    )
    assert statuses_and_ids(answers) in ([(401, "first")], [(401, "first"), (200, "last")])


@pytest.mark.spec("http.unread-body")
def test_a_401_to_expect_continue_closes_the_connection(target: Target) -> None:
    """The client may or may not send the body after this, so the connection cannot be reused."""
    framing = ["Expect: 100-continue", "Content-Length: 100000"]
    answers = target.exchange(post_task("first", "bad.to.ken", *framing), SMUGGLED_REQUEST)
    assert statuses_and_ids(answers) == [(401, "first")]
    assert answers[0].headers["connection"] == "close"


def test_expect_continue_gets_one_100(target: Target, owner_token: str) -> None:
    with closing(target.connect()) as line:
        line.sendall(post_task("first", owner_token, "Expect: 100-continue", content_length(BODY)))
        assert line.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        line.sendall(BODY + CLOSING_REQUEST)
        assert statuses_and_ids([*parse_responses(read_until_closed(line))]) == SERVED


def test_pipelined_requests_of_two_users_are_answered_in_order(target: Target) -> None:
    """As behind a proxy that shares one connection between its clients."""
    tokens = [new_token("one"), new_token("other")]
    messages = [
        post_task(f"{number}", tokens[number % 2], content_length(BODY), body=BODY) for number in range(20)
    ]
    *answers, last = target.exchange(b"".join(messages))
    assert statuses_and_ids(answers) == [(201, f"{number}") for number in range(20)]
    owners = [answer.json()["user_id"].partition("-")[0] for answer in answers]
    assert owners == ["one", "other"] * 10
    assert last.status_code == 200


@pytest.mark.parametrize(
    "fault", ["GET / HTTP/9.9", "\x16\x03\x01", "GET"], ids=["version", "TLS", "method alone"]
)
def test_nothing_is_parsed_after_a_malformed_request(target: Target, fault: str) -> None:
    answers = target.exchange(request_with_id("first", GET) + request(fault) + SMUGGLED_REQUEST)
    assert statuses_and_ids(answers) == [(200, "first"), (400, None)]


def test_bytes_after_a_body_start_the_next_request(target: Target, owner_token: str) -> None:
    answers = target.exchange(post_task("first", owner_token, content_length(BODY), body=BODY + b"XYZ "))
    assert statuses_and_ids(answers) == [(201, "first"), (400, None)]


def test_bytes_after_the_last_chunk_start_the_next_request(target: Target, owner_token: str) -> None:
    answers = target.exchange(post_task("first", owner_token, CHUNKED, body=chunked(BODY) + b"XYZ "))
    assert statuses_and_ids(answers) == [(201, "first"), (400, None)]


def test_framing_does_not_depend_on_segmentation(target: Target, owner_token: str) -> None:
    message = post_task("first", owner_token, CHUNKED, body=chunked(BODY[:5], BODY[5:]))
    answers = target.exchange(*(message[at : at + 1] for at in range(len(message))))
    assert statuses_and_ids(answers) == SERVED


def test_nothing_is_parsed_after_connection_close(target: Target) -> None:
    assert statuses_and_ids(
        target.exchange(request_with_id("first", GET, "Connection: close"), SMUGGLED_REQUEST)
    ) == [(200, "first")]


@pytest.mark.parametrize("upgrade", ["h2c", "TLS/1.0", "websocket"])
def test_no_protocol_upgrade_is_accepted(target: Target, upgrade: str) -> None:
    fields = [
        "Connection: Upgrade, HTTP2-Settings",
        f"Upgrade: {upgrade}",
        "HTTP2-Settings: AAMAAABkAAQAAP__",
    ]
    answers = target.exchange(request_with_id("first", GET, *fields))
    assert statuses_and_ids(answers) in ([(426, None)], [(200, "first"), (200, "last")])


def test_a_websocket_is_refused(target: Target) -> None:
    fields = [
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ]
    [answer] = target.exchange(request_with_id("first", "GET /api/tasks HTTP/1.1", *fields), SMUGGLED_REQUEST)
    assert answer.status_code == 403


def test_a_long_pipeline_is_served_in_full_or_cut_between_requests(target: Target, owner_token: str) -> None:
    """The C parser keeps 64 KiB of pipelined bytes and then closes the connection."""
    body = BODY + b" " * 30_000
    names = [f"{number}" for number in range(5)]
    answers = target.exchange(
        b"".join(post_task(name, owner_token, content_length(body), body=body) for name in names)
    )
    expected = [*((201, name) for name in names), (200, "last")]
    assert answers
    assert statuses_and_ids(answers) == expected[: len(answers)]
    listed = target.send(
        request_with_id("list", "GET /api/tasks HTTP/1.1", f"Authorization: Bearer {owner_token}")
    )
    assert len(listed.json()) == sum(answer.status_code == 201 for answer in answers)
