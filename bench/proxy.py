"""A TCP proxy to PostgreSQL that adds latency, and counts round trips and messages.

Data is delayed by half the round-trip time in each direction, without limiting the
bandwidth. Each direction has its own thread, because event loop timers have a
resolution of 1 ms.
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

SPIN_SECONDS = 0.0003
"""The thread polls for the last 300 µs before data is due, because sleeping would overshoot."""


@dataclass
class DelayProxy:
    """Traffic through the proxy since the last `clear`.

    A round trip starts when the client sends after the server has sent.
    """

    url: URL
    """The server's URL with the proxy's address."""
    delay: float
    """Seconds in one direction."""
    messages: list[str] = field(default_factory=list)
    """Types of the client's messages after start-up, without password messages."""
    round_trips: int = 0
    _server_has_sent: bool = True
    _used_at: float = field(default_factory=time.monotonic)

    def clear(self) -> None:
        self.messages.clear()
        self.round_trips = 0
        self._server_has_sent = True

    def wait_until_idle(self) -> None:
        """Also count messages that a target sends after its response, such as a ROLLBACK."""
        idle = max(0.01, 6 * self.delay)
        while (remaining := self._used_at + idle - time.monotonic()) > 0:
            time.sleep(remaining)

    def client_sent(self) -> None:
        self.round_trips += self._server_has_sent
        self._server_has_sent = False
        self._used_at = time.monotonic()

    def server_sent(self) -> None:
        self._server_has_sent = True
        self._used_at = time.monotonic()


@contextmanager
def delay_proxy(server: URL, round_trip_seconds: float) -> Iterator[DelayProxy]:
    """Run a proxy to `server` for any number of connections; connect to its `url`."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = server.set(host="127.0.0.1", port=listener.getsockname()[1])
        proxy = DelayProxy(url, round_trip_seconds / 2)
        thread = threading.Thread(target=_accept, args=(listener, server, proxy), daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _accept(listener: socket.socket, server: URL, proxy: DelayProxy) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        upstream = socket.create_connection((server.host or "127.0.0.1", server.port or 5432))
        for each in (client, upstream):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        parser = _MessageParser(proxy.messages)

        def from_client(data: bytes, parser: "_MessageParser" = parser) -> None:
            proxy.client_sent()
            parser.feed(data)

        _start(client, upstream, proxy.delay, from_client, _ignore)
        _start(upstream, client, proxy.delay, _ignore, lambda _: proxy.server_sent())


Observer = Callable[[bytes], None]


def _ignore(_: bytes) -> None:
    pass


def _start(
    source: socket.socket, target: socket.socket, delay: float, arrived: Observer, leaving: Observer
) -> None:
    arguments = (source, target, delay, arrived, leaving)
    threading.Thread(target=_relay, args=arguments, daemon=True).start()


def _relay(
    source: socket.socket, target: socket.socket, delay: float, arrived: Observer, leaving: Observer
) -> None:
    in_flight: deque[tuple[float, bytes]] = deque()
    with contextlib.suppress(OSError):
        while True:
            wait = max(0.0, in_flight[0][0] - time.monotonic() - SPIN_SECONDS) if in_flight else None
            if select.select([source], [], [], wait)[0]:
                data = source.recv(262_144)
                if not data:
                    break
                in_flight.append((time.monotonic() + delay, data))
                arrived(data)
            while in_flight and in_flight[0][0] <= time.monotonic():
                _, data = in_flight.popleft()
                leaving(data)
                target.sendall(data)
        _flush(in_flight, target)
    for each in (source, target):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


def _flush(in_flight: deque[tuple[float, bytes]], target: socket.socket) -> None:
    """Deliver data that was still delayed when the sender closed the connection."""
    for due, data in in_flight:
        time.sleep(max(0.0, due - time.monotonic()))
        target.sendall(data)


class _MessageParser:
    """Splits a client's byte stream into protocol messages. Up to the start-up message they have no type.

    Source: https://www.postgresql.org/docs/current/protocol-message-formats.html
    """

    def __init__(self, messages: list[str]) -> None:
        self._messages = messages
        self._buffer = b""
        self._started = False

    def feed(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= 8 if not self._started else len(self._buffer) >= 5:
            size = self._typed() if self._started else self._untyped()
            if size == 0:
                return
            self._buffer = self._buffer[size:]

    def _untyped(self) -> int:
        length, code = struct.unpack_from("!II", self._buffer)
        if len(self._buffer) < length:
            return 0
        self._started = code == START_UP
        return int(length)

    def _typed(self) -> int:
        kind, length = struct.unpack_from("!cI", self._buffer)
        if len(self._buffer) < 1 + length:
            return 0
        if kind.decode() != PASSWORD:
            self._messages.append(kind.decode())
        return 1 + int(length)
