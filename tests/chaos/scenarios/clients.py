"""Misbehaving clients, which other users must not notice, with few exceptions."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.chaos import clients
from tests.chaos.checker import Outcome
from tests.chaos.environment import pooled
from tests.chaos.runner import Run, Scenario
from tests.chaos.workload import Connection
from tests.support import SECRET, TASKS
from tools.tokens import mint

END_SECONDS = 12
"""The service closes idle and slow connections after 10 s; allows 2 s for late timers."""

COUNT = 100
IDLE = 2000


def _require_no_failures(run: Run) -> None:
    failures = sum(each.outcome is not Outcome.ACKNOWLEDGED for each in run.load.history)
    run.expect(not failures, f"{failures} requests of other users failed")


@contextmanager
def slow_headers(run: Run) -> Iterator[None]:
    with clients.connections(run.web.port, COUNT) as sockets:
        run.sleep(0.2)
        clients.send_all(sockets, b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n")
        clients.send_slowly(sockets, b"X-Slow: 1\r\n", END_SECONDS, run.sleep)
        still_open = clients.open_at_service(run.web.port, sockets)
    run.expect(not still_open, f"{still_open} of {COUNT} slow requests were still read after {END_SECONDS} s")
    yield
    _require_no_failures(run)


@contextmanager
def slow_bodies(run: Run) -> Iterator[None]:
    token = mint(SECRET, run.environment.new_name("slow"))
    with clients.connections(run.web.port, COUNT) as sockets:
        run.sleep(0.2)
        clients.send_all(sockets, clients.request("POST", TASKS, token, b'{"title": "', length=1000))
        clients.send_slowly(sockets, b"x", END_SECONDS, run.sleep)
        still_open = clients.open_at_service(run.web.port, sockets)
    run.expect(not still_open, f"{still_open} of {COUNT} slow bodies were still read after {END_SECONDS} s")
    yield
    _require_no_failures(run)


@contextmanager
def unread_responses(run: Run) -> Iterator[None]:
    """Each client requests more data than its buffers hold, and reads nothing."""
    reader = run.environment.new_name("deaf")
    connection = Connection(run.load.target, reader, keep_alive=True)
    for _ in range(100):
        connection.send("POST", TASKS, {"title": "long", "description": "x" * 5000})
    connection.close()
    request = clients.request("GET", f"{TASKS}?limit=200", mint(SECRET, reader))
    with clients.connections(run.web.port, 20, clients.SMALL_BUFFER) as sockets:
        run.sleep(0.2)
        clients.send_all(sockets, request * 10)
        run.sleep(END_SECONDS)
        still_open = clients.open_at_service(run.web.port, sockets)
    run.expect(not still_open, f"{still_open} of 20 unread answers were still held after {END_SECONDS} s")
    yield
    _require_no_failures(run)


@contextmanager
def idle_connections(run: Run) -> Iterator[None]:
    with clients.connections(run.web.port, IDLE) as sockets:
        run.sleep(1)
        open_at_first = clients.open_at_service(run.web.port, sockets)
        run.sleep(END_SECONDS)
        still_open = clients.open_at_service(run.web.port, sockets)
    run.notes.append(f"{open_at_first} connections established, {still_open} after {END_SECONDS} s")
    run.expect(
        not still_open, f"{still_open} of {IDLE} silent connections were still open after {END_SECONDS} s"
    )
    yield


@contextmanager
def resetting_clients(run: Run) -> Iterator[None]:
    request = clients.request(
        "POST", TASKS, mint(SECRET, run.environment.new_name("gone")), b'{"title": "gone"}'
    )
    end, count = time.monotonic() + 5, 0
    while time.monotonic() < end:
        clients.send_and_reset(run.web.port, request)
        count += 1
        run.sleep(0.005)
    run.notes.append(f"{count} clients vanished")
    yield
    _require_no_failures(run)


SCENARIOS = [
    Scenario("slow headers", slow_headers, pooled),
    Scenario("slow bodies", slow_bodies, pooled),
    Scenario("unread answers", unread_responses, pooled),
    Scenario("2,000 idle connections", idle_connections, pooled),
    Scenario("clients that vanish", resetting_clients, pooled),
]
