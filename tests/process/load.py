"""Clients that send requests continuously and record each outcome.

Some use keep-alive, as a router does; the others open a connection per request.
http.client, because it shows when a request has been written.
"""

import http.client
import json
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from tests.support import SECRET, TASKS, wait_until
from tools.tokens import mint

TIMEOUT_SECONDS = 30
KEEP_ALIVE_CLIENTS, NEW_CONNECTION_CLIENTS = 6, 4
"""Clients with keep-alive, and clients with a connection per request."""


@dataclass(frozen=True)
class Exchange:
    """A request that was fully written. `status` is None without a complete response."""

    written_at: float
    status: int | None
    task: str | None = None


class Client:
    """Alternately creates a task and lists tasks, until it is stopped or the connection is refused."""

    def __init__(self, port: int, keep_alive: bool, stopped: threading.Event) -> None:
        self.exchanges: list[Exchange] = []
        self.pending = False
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
        self._keep_alive = keep_alive
        self._stopped = stopped
        self._headers = {
            "Authorization": f"Bearer {mint(SECRET, f'client-{uuid.uuid4()}')}",
            "Content-Type": "application/json",
        }

    def run(self) -> None:
        with suppress(ConnectionRefusedError):
            while not self._stopped.is_set():
                self._send("POST", json.dumps({"title": "x"}))
                self._send("GET", None)
        self._connection.close()

    def _send(self, method: str, body: str | None) -> None:
        try:
            if self._connection.sock is None:
                self._connection.connect()
            self._connection.request(method, TASKS, body, self._headers)
        except ConnectionRefusedError:
            raise
        except OSError:
            # Closed before the request was written: retry on a new connection.
            self._connection.close()
            return
        self._receive(time.monotonic())

    def _receive(self, written_at: float) -> None:
        status, task = None, None
        self.pending = True
        try:
            response = self._connection.getresponse()
            content = json.loads(response.read())
            status = response.status
            task = content["id"] if status == http.client.CREATED else None
        except (OSError, http.client.HTTPException):
            self._connection.close()
        self.pending = False
        self.exchanges.append(Exchange(written_at, status, task))
        if not self._keep_alive:
            self._connection.close()


@dataclass
class Load:
    """All clients of one load."""

    clients: list[Client]
    threads: list[threading.Thread] = field(default_factory=list)

    @property
    def exchanges(self) -> list[Exchange]:
        return [exchange for client in self.clients for exchange in client.exchanges]

    def wait_for_responses(self, count: int = 5) -> None:
        """Wait until every client has had `count` more responses."""
        goals = [(client, len(client.exchanges) + count) for client in self.clients]
        wait_until(
            lambda: all(len(client.exchanges) >= goal for client, goal in goals), "the clients get no answers"
        )

    def wait_until_all_pending(self) -> None:
        """Wait until every client has a request in flight."""
        wait_until(lambda: all(client.pending for client in self.clients), "the clients get answers")

    def join(self) -> None:
        for thread in self.threads:
            thread.join()


@contextmanager
def load(port: int) -> Iterator[Load]:
    stopped = threading.Event()
    clients = [
        Client(port, number < KEEP_ALIVE_CLIENTS, stopped)
        for number in range(KEEP_ALIVE_CLIENTS + NEW_CONNECTION_CLIENTS)
    ]
    running = Load(clients, [threading.Thread(target=client.run) for client in clients])
    for thread in running.threads:
        thread.start()
    try:
        yield running
    finally:
        stopped.set()
        running.join()
