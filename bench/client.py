"""One caller on one kept-alive connection, on a bare socket.

`http.client` takes a quarter of a millisecond to parse an answer, which would
hide differences between the contestants.
"""

import json
import re
import socket
import time
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

KEPT_SECONDS = 5
"""An idle connection is used again for so long: less than the service keeps it."""

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_NEXT = re.compile(rb'\r\nlink: *<([^>]+)>; rel="next"', re.IGNORECASE)


class WrongAnswer(Exception):
    """A contestant answered what it must not; the message is one clear line."""


@dataclass(frozen=True)
class Answer:
    """`milliseconds` from the first byte sent to the last one received; `following` is of the Link header."""

    status: int
    body: bytes
    following: str | None
    milliseconds: float

    def id(self) -> str:
        """Of the task that this is."""
        found: str = json.loads(self.body)["id"]
        return found


class Client:
    def __init__(self, url: str, token: str) -> None:
        self._host = urlsplit(url).hostname or ""
        self._port = urlsplit(url).port or 80
        self._authorization = f"Authorization: Bearer {token}\r\n"
        self._socket: socket.socket | None = None
        self._used_at = 0.0

    def ask(self, method: str, path: str = TASKS, body: object = None) -> Answer:
        """Raises WrongAnswer unless it succeeds."""
        text = "" if body is None else json.dumps(body)
        head = f"{method} {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n{self._authorization}"
        if body is not None:
            head += f"Content-Type: application/json\r\nContent-Length: {len(text)}\r\n"
        answer = self._exchange(f"{head}\r\n{text}".encode())
        if answer.status >= 400:
            raise WrongAnswer(f"{method} {path} was answered {answer.status}: {answer.body.decode()}")
        return answer

    def page(self, number: int, limit: int) -> str:
        """The path of the page, the first being number 1, found by following the links."""
        path = f"{TASKS}?limit={limit}"
        for _ in range(number - 1):
            following = self.ask("GET", path).following
            if following is None:
                raise WrongAnswer(f"There is no page {number} of {limit} tasks")
            path = following
        return path

    def _exchange(self, request: bytes) -> Answer:
        connection = self._connection()
        began = time.perf_counter()
        connection.sendall(request)
        head, body = _receive(connection)
        milliseconds = (time.perf_counter() - began) * 1000
        self._used_at = time.monotonic()
        link = _NEXT.search(head)
        return Answer(int(head[9:12]), body, link and link[1].decode(), milliseconds)

    def _connection(self) -> socket.socket:
        if self._socket is not None:
            if time.monotonic() - self._used_at < KEPT_SECONDS:
                return self._socket
            self._socket.close()
        self._socket = socket.create_connection((self._host, self._port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._socket


def _receive(source: socket.socket) -> tuple[bytes, bytes]:
    """The head and the body of an answer that says its length, or has no body."""
    data = b""
    while (end := data.find(b"\r\n\r\n")) < 0:
        data += _more(source)
    length = _LENGTH.search(data, 0, end)
    whole = end + 4 + (int(length[1]) if length else 0)
    while len(data) < whole:
        data += _more(source)
    return data[: end + 2], data[end + 4 : whole]


def _more(source: socket.socket) -> bytes:
    data = source.recv(262_144)
    if not data:
        raise WrongAnswer("The connection was closed instead of an answer")
    return data
