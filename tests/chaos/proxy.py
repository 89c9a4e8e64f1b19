"""A TCP proxy between the service and its database that breaks what passes through it.

A message of type Q from the service is a query; its answer is complete with the
ReadyForQuery message, which PostgreSQL sends after the commit.
"""

import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum, auto

from sqlalchemy import URL

QUERY = b"Q"
READY = tuple(b"Z\0\0\0\5" + state for state in (b"I", b"T", b"E"))
ONE_WAY_SECONDS = (0.05, 0.15)
"""Latency of one direction: 200 ms for a round trip, give or take 100."""

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with no time: closing sends RST."""


class Break(Enum):
    NONE = auto()
    BLACK_HOLE = auto()
    """Nothing passes in either direction until it ends."""
    RESET_IN_ANSWER = auto()
    """Half of the answer, then RST."""
    DROP_ANSWER = auto()
    """The query is executed and committed, then the connection closed without its answer."""
    SWALLOW_ANSWER = auto()
    """As above, but the connection stays open for good."""
    LATENCY = auto()


OF_ANSWERS = frozenset({Break.RESET_IN_ANSWER, Break.DROP_ANSWER, Break.SWALLOW_ANSWER})


class Proxy:
    """`url` is the database's as seen through the proxy."""

    def __init__(self, url: URL, seed: str) -> None:
        self.upstream = url.port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = url.set(port=self._listener.getsockname()[1])
        self.broken = 0
        self._random = random.Random(seed)
        self._break = Break.NONE
        self._every = 1
        self._passes = threading.Event()
        self._passes.set()
        self._lines: list[_Line] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def start(self, kind: Break, every: int = 1) -> None:
        """Break what passes from now on; of answers, one in `every`."""
        self._break, self._every = kind, every
        if kind is Break.BLACK_HOLE:
            self._passes.clear()

    def end(self) -> None:
        self._break = Break.NONE
        self._passes.set()

    def move(self, port: int) -> None:
        """Send new connections to another server, and close those to the old one."""
        self.upstream = port
        self.cut()

    def cut(self) -> None:
        for line in self._lines:
            line.close()
        self._lines.clear()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.end()
        self.cut()

    def delay(self) -> None:
        """Before a piece of data is passed on."""
        self._passes.wait()
        if self._break is Break.LATENCY:
            time.sleep(self._random.uniform(*ONE_WAY_SECONDS))

    def breaks_answers(self) -> bool:
        return self._break in OF_ANSWERS

    def choose(self) -> Break:
        """What becomes of one answer."""
        chosen = self._break
        if chosen not in OF_ANSWERS or self._random.randrange(self._every):
            return Break.NONE
        self.broken += 1
        return chosen

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            line = _Line(self, client)
            self._lines.append(line)
            threading.Thread(target=line.open, daemon=True).start()


class _Line:
    """One connection of the service, and the one to the server that belongs to it."""

    def __init__(self, proxy: Proxy, client: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server: socket.socket | None = None
        self._asked = threading.Event()
        self._reset = False

    def open(self) -> None:
        self._proxy.delay()
        try:
            self._server = socket.create_connection(("127.0.0.1", self._proxy.upstream or 5432))
        except OSError:
            self.close()
            return
        threading.Thread(target=self._answers, args=(self._server,), daemon=True).start()
        self._queries(self._server)

    def close(self) -> None:
        for each in (self._client, self._server):
            if each is not None:
                with suppress(OSError):
                    # Wakes a thread that waits in recv(). With SHUT_RDWR, FIN would be sent before RST.
                    each.shutdown(socket.SHUT_RD if self._reset else socket.SHUT_RDWR)
                each.close()

    def _queries(self, server: socket.socket) -> None:
        with suppress(OSError):
            while data := self._client.recv(65536):
                self._proxy.delay()
                if data.startswith(QUERY):
                    self._asked.set()
                server.sendall(data)
        self.close()

    def _answers(self, server: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(65536):
                self._proxy.delay()
                if not (self._asked.is_set() and self._proxy.breaks_answers()):
                    self._client.sendall(data)
                elif not self._answer(_whole(server, data)):
                    break
                if data.endswith(READY):
                    self._asked.clear()
        self.close()

    def _answer(self, data: bytes) -> bool:
        """Treat one answer as the proxy says; False when the connection is to be closed."""
        match self._proxy.choose():
            case Break.RESET_IN_ANSWER:
                self._client.sendall(data[: len(data) // 2])
                self._client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                self._reset = True
                return False
            case Break.DROP_ANSWER:
                return False
            case Break.SWALLOW_ANSWER:
                # Until either side closes.
                while self._server is not None and self._server.recv(65536):
                    pass
                return False
            case _:
                self._client.sendall(data)
                self._asked.clear()
                return True


def _whole(server: socket.socket, data: bytes) -> bytes:
    while not data.endswith(READY):
        more = server.recv(65536)
        if not more:
            raise OSError
        data += more
    return data


@contextmanager
def proxy(url: URL, seed: str) -> Iterator[Proxy]:
    running = Proxy(url, seed)
    try:
        yield running
    finally:
        running.close()
