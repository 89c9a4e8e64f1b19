"""HTTP/1.1 over a plain socket, for requests that client libraries refuse to send."""

import re
import socket
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress

import pytest
from httpx2 import Response

from tests.process.service import Service
from tests.support import SECRET
from tools.tokens import mint

TIMEOUT_SECONDS = 10

_STATUS_LINE = re.compile(r"HTTP/1\.[01] ([1-5][0-9]{2}) [A-Za-z -]+")

StatusesAndIds = list[tuple[int, str | None]]
"""Status and X-Request-ID of each answer on a connection, in order."""


def request(line: str, *fields: str, body: bytes = b"", host: str = "tasks.example") -> bytes:
    """A request whose line and fields are sent as they are, in Latin-1."""
    head = "\r\n".join([line, *([f"Host: {host}"] if host else []), *fields, "", ""])
    return head.encode("latin-1") + body


def request_with_id(name: str, line: str, *fields: str, body: bytes = b"") -> bytes:
    """A request with `name` as its X-Request-ID, which the answer repeats."""
    return request(line, f"X-Request-ID: {name}", *fields, body=body)


def post_task(
    name: str, token: str, *fields: str, body: bytes = b"", media_type: str = "application/json"
) -> bytes:
    """POST /api/tasks; `fields` must include the body's framing."""
    return request_with_id(
        name,
        "POST /api/tasks HTTP/1.1",
        f"Authorization: Bearer {token}",
        f"Content-Type: {media_type}",
        *fields,
        body=body,
    )


def content_length(body: bytes) -> str:
    return f"Content-Length: {len(body)}"


def chunked(*chunks: bytes) -> bytes:
    """A body in the chunked transfer coding."""
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in [*chunks, b""])


SMUGGLED_REQUEST = request_with_id("smuggled", "GET /health/live HTTP/1.1")
"""Hidden in bodies and after refused requests; an answer to it proves that those bytes were parsed."""

CLOSING_REQUEST = request_with_id("last", "GET /health/live HTTP/1.1", "Connection: close")
"""Closes the connection; answered only if the service still agrees where requests begin."""


class Target:
    """A running service, and raw connections to it."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._address = "127.0.0.1", int(str(service.client.base_url.port))

    def connect(self) -> socket.socket:
        return socket.create_connection(self._address, timeout=TIMEOUT_SECONDS)

    def exchange(self, *segments: bytes) -> list[Response]:
        """Send the segments, then CLOSING_REQUEST; return all responses until the connection is closed."""
        with closing(self.connect()) as line:
            with suppress(ConnectionError):
                for segment in [*segments, CLOSING_REQUEST]:
                    line.sendall(segment)
            return [*parse_responses(read_until_closed(line))]

    def send(self, message: bytes) -> Response:
        """Send one request and return its response; fail if there is another before CLOSING_REQUEST's."""
        first, *others = self.exchange(message)
        assert statuses_and_ids(others) in ([], [(200, "last")])
        return first

    def log(self) -> str:
        return self.service.output.read_bytes().decode()


def read_until_closed(line: socket.socket) -> bytes:
    """Read until the peer closes. Raises TimeoutError after TIMEOUT_SECONDS."""
    data = bytearray()
    with suppress(ConnectionResetError):
        while piece := line.recv(1 << 16):
            data += piece
    return bytes(data)


def parse_responses(data: bytes) -> Iterator[Response]:
    """Split a stream into answers, each framed by exactly one Content-Length."""
    while data:
        head, end, data = data.partition(b"\r\n\r\n")
        status_line, *fields = head.decode("latin-1").split("\r\n")
        status = _STATUS_LINE.fullmatch(status_line)
        assert end, head
        assert status, status_line
        headers = [(name, value) for name, _, value in (field.partition(": ") for field in fields)]
        lengths = [int(value) for name, value in headers if name.lower() == "content-length"]
        size = lengths[0] if lengths else 0
        assert len(lengths) == (0 if status[1] in {"100", "204"} else 1), head
        assert len(data) >= size, "a truncated body"
        yield Response(int(status[1]), headers=headers, content=data[:size])
        data = data[size:]


def statuses_and_ids(answers: list[Response]) -> StatusesAndIds:
    return [(answer.status_code, answer.headers.get("x-request-id")) for answer in answers]


def new_token(who: str, **claims: object) -> str:
    return mint(SECRET, f"{who}-{uuid.uuid4()}", **claims)


def parametrize_cases(table: Mapping[str, object]) -> pytest.MarkDecorator:
    """Parametrize a test as `case` over a table of named cases."""
    return pytest.mark.parametrize("case", table.values(), ids=table.keys())
