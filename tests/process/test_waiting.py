"""Requests that wait for changes, in gunicorn: what they cost, and what ends them."""

import asyncio
import select
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy import URL

from tests.process.service import Service, running_service, service_environment
from tests.process.test_connections import connect, resident_megabytes, worker_pid
from tests.support import SECRET, Caller, client_as, ok, wait_until
from tests.tasks.copy import CHANGES
from tools.tokens import mint

LONG = 25
"""Seconds, the longest wait."""
OF_A_USER = 10
"""Waiting requests."""
MANY = 500
"""As many as a process allows by default."""


@pytest.fixture
def service(database_url: URL, tmp_path: Path) -> Iterator[Service]:
    with running_service(service_environment(database_url), tmp_path / "output") as running:
        yield running


def following(service: Service) -> tuple[Caller, str]:
    """A new user with a task, and their position."""
    caller = client_as(service.client, f"waiting-{uuid.uuid4()}")
    caller.create()
    return caller, str(ok(caller.get(CHANGES))["position"])


def request_of(token: str | None, since: str) -> bytes:
    return (
        f"GET {CHANGES}?since={since}&wait={LONG} HTTP/1.1\r\nHost: localhost\r\n"
        f"Authorization: Bearer {token}\r\n\r\n"
    ).encode()


@pytest.mark.spec("changes.wait.ends", "process.stop")
def test_a_stop_ends_every_wait(service: Service) -> None:
    caller, since = following(service)
    with ThreadPoolExecutor(OF_A_USER + 1) as threads:
        ask = f"{CHANGES}?since={since}&wait={LONG}"
        waiting = {threads.submit(caller.get, ask) for _ in range(OF_A_USER + 1)}
        one_too_many = next(as_completed(waiting))
        assert one_too_many.result().status_code == 429
        began_at = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        for each in waiting - {one_too_many}:
            assert ok(each.result()) == {"tasks": [], "position": since, "more": False}
        assert time.monotonic() - began_at < LONG / 2


@pytest.mark.spec("changes.wait.bounds")
def test_a_client_that_disconnects_frees_its_place(service: Service) -> None:
    caller, since = following(service)
    with ExitStack() as stack:
        connections = [stack.enter_context(connect(service)) for _ in range(OF_A_USER + 1)]
        for connection in connections:
            connection.sendall(request_of(caller.token, since))
        [one_too_many], _, _ = select.select(connections, [], [], LONG)
        assert one_too_many.recv(1_000).startswith(b"HTTP/1.1 429 ")
        connections.remove(one_too_many)
        connections[0].close()
        again = f"{CHANGES}?since={since}&wait=1"
        wait_until(lambda: caller.get(again).status_code == 200, "its place is not freed", seconds=LONG / 2)


@pytest.mark.spec("changes.wait.free")
def test_500_waiting_requests_take_little_memory(service: Service) -> None:
    worker = worker_pid(service.process.pid)
    following(service)
    megabytes = []
    for count in (OF_A_USER, MANY):
        asyncio.run(wait_in_vain(service, count, lambda: megabytes.append(resident_megabytes(worker))))
    few, many = megabytes
    assert many - few < 25


async def wait_in_vain(service: Service, count: int, meanwhile: Callable[[], object]) -> None:
    """So many waiting requests, and one too many of each user, which is how to know that the others wait."""
    url = service.client.base_url
    writers = []
    for number in range(count // OF_A_USER):
        request = request_of(mint(SECRET, f"vain-{uuid.uuid4()}-{number}"), "0")
        responses = []
        for _ in range(OF_A_USER + 1):
            reader, writer = await asyncio.open_connection(url.host, url.port)
            writer.write(request)
            writers.append(writer)
            responses.append(asyncio.create_task(reader.readline()))
        [refused], waiting = await asyncio.wait(responses, return_when=asyncio.FIRST_COMPLETED)
        assert refused.result().startswith(b"HTTP/1.1 429 ")
        for each in waiting:
            each.cancel()
    meanwhile()
    for writer in writers:
        writer.close()
