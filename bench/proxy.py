"""A line to PostgreSQL with a delay, which counts what it costs to use it.

Everything arrives half the round trip later, and nothing slower than that: what
arrives together leaves together. Each direction has a thread of its own, because
the timers of event loops are good to a millisecond only.
"""

import contextlib
import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from sqlalchemy import URL

START_UP = 196608
PASSWORD = "p"

SHARP_SECONDS = 0.0003
"""So long before data are due, their thread no longer sleeps: it would wake up too late."""


@dataclass
class Line:
    """What was sent over it since the last `clear`.

    A round trip begins whenever the client speaks after the server has spoken:
    until then it has waited. `messages` are the types of what the client sent
    after the start-up, passwords left out.
    """

    url: URL
    delay: float
    messages: list[str] = field(default_factory=list)
    round_trips: int = 0
    _server_spoke: bool = True
    _used_at: float = field(default_factory=time.monotonic)

    def clear(self) -> None:
        self.messages.clear()
        self.round_trips = 0
        self._server_spoke = True

    def wait_until_quiet(self) -> None:
        """What a contestant does after it has answered belongs to the operation as well."""
        quiet = max(0.01, 6 * self.delay)
        while (rest := self._used_at + quiet - time.monotonic()) > 0:
            time.sleep(rest)

    def client_spoke(self) -> None:
        self.round_trips += self._server_spoke
        self._server_spoke = False
        self._used_at = time.monotonic()

    def server_spoke(self) -> None:
        self._server_spoke = True
        self._used_at = time.monotonic()


@contextmanager
def delayed(server: URL, round_trip_seconds: float) -> Iterator[Line]:
    """A line to `server` for as many connections as come; `url` is its near end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        line = Line(server.set(host="127.0.0.1", port=listener.getsockname()[1]), round_trip_seconds / 2)
        thread = threading.Thread(target=_accept, args=(listener, server, line), daemon=True)
        thread.start()
        try:
            yield line
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _accept(listener: socket.socket, server: URL, line: Line) -> None:
    while True:
        try:
            near, _ = listener.accept()
        except OSError:
            return
        far = socket.create_connection((server.host or "127.0.0.1", server.port or 5432))
        for each in (near, far):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        reader = _Reader(line.messages)

        def from_client(data: bytes, reader: "_Reader" = reader) -> None:
            line.client_spoke()
            reader.feed(data)

        _start(near, far, line.delay, from_client, _nothing)
        _start(far, near, line.delay, _nothing, lambda _: line.server_spoke())


Observer = Callable[[bytes], None]


def _nothing(_: bytes) -> None:
    pass


def _start(
    source: socket.socket, target: socket.socket, delay: float, arrived: Observer, leaving: Observer
) -> None:
    arguments = (source, target, delay, arrived, leaving)
    threading.Thread(target=_relay, args=arguments, daemon=True).start()


def _relay(
    source: socket.socket, target: socket.socket, delay: float, arrived: Observer, leaving: Observer
) -> None:
    under_way: deque[tuple[float, bytes]] = deque()
    with contextlib.suppress(OSError):
        while True:
            wait = max(0.0, under_way[0][0] - time.monotonic() - SHARP_SECONDS) if under_way else None
            if select.select([source], [], [], wait)[0]:
                data = source.recv(262_144)
                if not data:
                    break
                under_way.append((time.monotonic() + delay, data))
                arrived(data)
            while under_way and under_way[0][0] <= time.monotonic():
                _, data = under_way.popleft()
                leaving(data)
                target.sendall(data)
        _hand_over(under_way, target)
    for each in (source, target):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


def _hand_over(under_way: deque[tuple[float, bytes]], target: socket.socket) -> None:
    """What was under way when the sender ended the connection."""
    for due, data in under_way:
        time.sleep(max(0.0, due - time.monotonic()))
        target.sendall(data)


class _Reader:
    """Tells a client's messages apart; until the start-up message, they have no type.

    Source: https://www.postgresql.org/docs/current/protocol-message-formats.html
    """

    def __init__(self, messages: list[str]) -> None:
        self._messages = messages
        self._rest = b""
        self._started = False

    def feed(self, data: bytes) -> None:
        self._rest += data
        while len(self._rest) >= 8 if not self._started else len(self._rest) >= 5:
            size = self._typed() if self._started else self._untyped()
            if size == 0:
                return
            self._rest = self._rest[size:]

    def _untyped(self) -> int:
        length, code = struct.unpack_from("!II", self._rest)
        if len(self._rest) < length:
            return 0
        self._started = code == START_UP
        return int(length)

    def _typed(self) -> int:
        kind, length = struct.unpack_from("!cI", self._rest)
        if len(self._rest) < 1 + length:
            return 0
        if kind.decode() != PASSWORD:
            self._messages.append(kind.decode())
        return 1 + int(length)
