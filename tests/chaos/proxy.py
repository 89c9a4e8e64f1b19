"""A TCP proxy between the service and its database that injects network faults.

A message of type Q from the service is a query. Its response ends with
ReadyForQuery, which PostgreSQL sends after the commit.
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
"""Latency per direction: 200 ± 100 ms for a round trip."""

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with a zero timeout: close() sends RST."""


class NetworkFault(Enum):
    NONE = auto()
    BLACK_HOLE = auto()
    """No data passes in either direction until the fault ends."""
    RESET_MID_RESPONSE = auto()
    """Half of the response, then RST."""
    DROP_RESPONSE = auto()
    """The query is executed and committed, then the connection closed without a response."""
    WITHHOLD_RESPONSE = auto()
    """As above, but the connection stays open without a response."""
    LATENCY = auto()


RESPONSE_FAULTS = frozenset(
    {NetworkFault.RESET_MID_RESPONSE, NetworkFault.DROP_RESPONSE, NetworkFault.WITHHOLD_RESPONSE}
)


class Proxy:
    """`url` is the database's URL through the proxy."""

    def __init__(self, url: URL, seed: str) -> None:
        self.upstream = url.port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = url.set(port=self._listener.getsockname()[1])
        self.faults_injected = 0
        self._random = random.Random(seed)
        self._fault = NetworkFault.NONE
        self._one_in = 1
        self._unblocked = threading.Event()
        self._unblocked.set()
        self._connections: list[_ProxiedConnection] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def start(self, kind: NetworkFault, one_in: int = 1) -> None:
        """Inject a fault from now on; response faults affect one response in `one_in`."""
        self._fault, self._one_in = kind, one_in
        if kind is NetworkFault.BLACK_HOLE:
            self._unblocked.clear()

    def end(self) -> None:
        self._fault = NetworkFault.NONE
        self._unblocked.set()

    def redirect(self, port: int) -> None:
        """Route new connections to another server, and close the existing ones."""
        self.upstream = port
        self.close_connections()

    def close_connections(self) -> None:
        for connection in self._connections:
            connection.close()
        self._connections.clear()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.end()
        self.close_connections()

    def delay(self) -> None:
        """Wait before forwarding data, as the current fault requires."""
        self._unblocked.wait()
        if self._fault is NetworkFault.LATENCY:
            time.sleep(self._random.uniform(*ONE_WAY_SECONDS))

    def affects_responses(self) -> bool:
        return self._fault in RESPONSE_FAULTS

    def next_fault(self) -> NetworkFault:
        """The fault for one response."""
        fault = self._fault
        if fault not in RESPONSE_FAULTS or self._random.randrange(self._one_in):
            return NetworkFault.NONE
        self.faults_injected += 1
        return fault

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            connection = _ProxiedConnection(self, client)
            self._connections.append(connection)
            threading.Thread(target=connection.open, daemon=True).start()


class _ProxiedConnection:
    """A client connection and its connection to the server."""

    def __init__(self, proxy: Proxy, client: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server: socket.socket | None = None
        self._query_pending = threading.Event()
        self._reset = False

    def open(self) -> None:
        self._proxy.delay()
        try:
            self._server = socket.create_connection(("127.0.0.1", self._proxy.upstream or 5432))
        except OSError:
            self.close()
            return
        threading.Thread(target=self._forward_responses, args=(self._server,), daemon=True).start()
        self._forward_queries(self._server)

    def close(self) -> None:
        for each in (self._client, self._server):
            if each is not None:
                with suppress(OSError):
                    # Wakes a thread blocked in recv(). SHUT_RDWR would send FIN before RST.
                    each.shutdown(socket.SHUT_RD if self._reset else socket.SHUT_RDWR)
                each.close()

    def _forward_queries(self, server: socket.socket) -> None:
        with suppress(OSError):
            while data := self._client.recv(65536):
                self._proxy.delay()
                if data.startswith(QUERY):
                    self._query_pending.set()
                server.sendall(data)
        self.close()

    def _forward_responses(self, server: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(65536):
                self._proxy.delay()
                if not (self._query_pending.is_set() and self._proxy.affects_responses()):
                    self._client.sendall(data)
                elif not self._forward_response(_read_response(server, data)):
                    break
                if data.endswith(READY):
                    self._query_pending.clear()
        self.close()

    def _forward_response(self, data: bytes) -> bool:
        """Forward or break one response; False if the connection is to be closed."""
        match self._proxy.next_fault():
            case NetworkFault.RESET_MID_RESPONSE:
                self._client.sendall(data[: len(data) // 2])
                self._client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                self._reset = True
                return False
            case NetworkFault.DROP_RESPONSE:
                return False
            case NetworkFault.WITHHOLD_RESPONSE:
                # Until either side closes.
                while self._server is not None and self._server.recv(65536):
                    pass
                return False
            case _:
                self._client.sendall(data)
                self._query_pending.clear()
                return True


def _read_response(server: socket.socket, data: bytes) -> bytes:
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
