"""A minimal HTTP client: one keep-alive connection on a raw socket.

`http.client` takes about 250 µs to parse a response, which would hide differences
between the benchmark targets.
"""

import json
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

TASKS = "/api/tasks"
NEW = {
    "title": "Water the plants",
    "description": "The ones on the balcony too.",
    "priority": "high",
    "tags": ["home", "garden"],
}
CHANGE = {"title": "Feed the cat"}

REUSE_SECONDS = 5
"""An idle connection is reused within this time, which is shorter than the server's keep-alive timeout."""

_LIMIT = re.compile(r"\blimit=\d+")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_ETAG = re.compile(rb"\r\netag: *([^\r]+)", re.IGNORECASE)
_NEXT = re.compile(rb'\r\nlink: *<([^>]+)>; rel="next"', re.IGNORECASE)


class UnexpectedResponse(Exception):
    """A benchmark target sent a wrong response; the message is one line for the user."""


@dataclass(frozen=True)
class Response:
    status: int
    body: bytes
    next_path: str | None
    """Target of `rel="next"` in the Link header."""
    etag: str | None
    milliseconds: float
    """From sending the first byte of the request to receiving the last byte of the response."""

    def task_id(self) -> str:
        task_id: str = json.loads(self.body)["id"]
        return task_id


class Client:
    def __init__(self, url: str, token: str) -> None:
        self._host = urlsplit(url).hostname or ""
        self._port = urlsplit(url).port or 80
        self._authorization = f"Authorization: Bearer {token}\r\n"
        self._socket: socket.socket | None = None
        self._used_at = 0.0

    def request(
        self, method: str, path: str = TASKS, body: object = None, headers: Mapping[str, str] | None = None
    ) -> Response:
        """Raises UnexpectedResponse for a status of 400 or above."""
        text = "" if body is None else json.dumps(body)
        head = f"{method} {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n{self._authorization}"
        if body is not None:
            head += f"Content-Type: application/json\r\nContent-Length: {len(text)}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        response = self._exchange(f"{head}\r\n{text}".encode())
        if response.status >= 400:
            raise UnexpectedResponse(f"{method} {path}: status {response.status}: {response.body.decode()}")
        return response

    def page(self, query: str, behind: int, limit: int) -> str:
        """The path of a page with `limit` tasks behind the first `behind` tasks of the list.

        Found by following the Link headers, in as large steps as possible.
        """
        path = f"{TASKS}?{query}&limit={limit}"
        while behind > 0:
            step = min(behind, 200)
            next_path = self.request("GET", _LIMIT.sub(f"limit={step}", path)).next_path
            if next_path is None:
                raise UnexpectedResponse(f"The list {query} ends before the page that is to be measured")
            path, behind = _LIMIT.sub(f"limit={limit}", next_path), behind - step
        return path

    def _exchange(self, request: bytes) -> Response:
        connection = self._connection()
        began = time.perf_counter()
        connection.sendall(request)
        head, body = _receive(connection)
        milliseconds = (time.perf_counter() - began) * 1000
        self._used_at = time.monotonic()
        link, etag = _NEXT.search(head), _ETAG.search(head)
        return Response(
            status=int(head[9:12]),
            body=body,
            next_path=link and link[1].decode(),
            etag=etag and etag[1].decode(),
            milliseconds=milliseconds,
        )

    def _connection(self) -> socket.socket:
        if self._socket is not None:
            if time.monotonic() - self._used_at < REUSE_SECONDS:
                return self._socket
            self._socket.close()
        self._socket = socket.create_connection((self._host, self._port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._socket


def _receive(source: socket.socket) -> tuple[bytes, bytes]:
    """Head and body of a response that has a Content-Length or no body."""
    data = b""
    while (end := data.find(b"\r\n\r\n")) < 0:
        data += _read(source)
    length = _LENGTH.search(data, 0, end)
    total = end + 4 + (int(length[1]) if length else 0)
    while len(data) < total:
        data += _read(source)
    return data[: end + 2], data[end + 4 : total]


def _read(source: socket.socket) -> bytes:
    data = source.recv(262_144)
    if not data:
        raise UnexpectedResponse("The server closed the connection before the end of the response")
    return data
