"""Idle, slow, malformed and excess client connections, against gunicorn."""

import os
import re
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from gunicorn.asgi.protocol import ASGIProtocol  # type: ignore[import-untyped]
from sqlalchemy import URL

from tests.database.test_scope import Locked
from tests.environment import Sql
from tests.process.service import Service, configuration_with, running_service, service_environment
from tests.protocol_proxy import protocol_proxy
from tests.support import SECRET, TASKS, client_as, wait_until
from tools.tokens import mint
from web.connections import BoundedWorker

LAST_REQUEST = "GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
"""A liveness request that closes the connection."""

KEEPALIVE_SECONDS = 10
"""The idle timeout of a connection; `keepalive` in gunicorn.conf.py."""


@pytest.fixture(scope="module")
def service(database_url: URL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    output = tmp_path_factory.mktemp("connections") / "output"
    with running_service(service_environment(database_url), output) as service:
        yield service


def connect(service: Service) -> socket.socket:
    return socket.create_connection(("127.0.0.1", service.client.base_url.port or 0), timeout=30)


def read_until_closed(connection: socket.socket) -> str:
    """Read until the service closes the connection."""
    received = b""
    with suppress(ConnectionResetError):
        while data := connection.recv(65536):
            received += data
    return received.decode()


def exchange(service: Service, request: str) -> str:
    with connect(service) as connection:
        connection.sendall(request.encode())
        return read_until_closed(connection)


def request_head(method: str, path: str, *fields: str, user: str = "somebody") -> str:
    token = mint(SECRET, user)
    return "\r\n".join(
        [f"{method} {path} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {token}", *fields, "", ""]
    )


def post_head(*fields: str) -> str:
    return request_head("POST", TASKS, "Content-Type: application/json", *fields)


def no_request(connection: socket.socket) -> None:
    pass


def partial_request(connection: socket.socket) -> None:
    connection.sendall(b"GET /api/tasks HTTP/1.1\r\nHost: loc")


def idle_after_request(connection: socket.socket) -> None:
    connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert connection.recv(65536).startswith(b"HTTP/1.1 200")


def slow_headers(connection: socket.socket) -> None:
    connection.sendall(b"GET /api/tasks HTTP/1.1\r\nX-Slow: ")
    send_slowly(connection)


def slow_body(connection: socket.socket) -> None:
    connection.sendall(post_head("Content-Length: 1000").encode())
    send_slowly(connection)


def send_slowly(connection: socket.socket) -> None:
    connection.settimeout(0.5)
    for _ in range(50):
        with suppress(TimeoutError):
            if connection.recv(1, socket.MSG_PEEK) == b"":
                break
            break
        connection.sendall(b"x")
    connection.settimeout(30)


@pytest.mark.spec("http.timeouts.headers", "http.timeouts.idle", "http.timeouts.body")
def test_idle_and_slow_connections_time_out(service: Service) -> None:
    def measure(behave: Callable[[socket.socket], None]) -> tuple[float, str]:
        with connect(service) as connection:
            started_at = time.monotonic()
            behave(connection)
            response = read_until_closed(connection)
            return time.monotonic() - started_at, response

    kinds = [no_request, partial_request, idle_after_request, slow_headers, slow_body]
    with ThreadPoolExecutor(len(kinds)) as threads:
        ended = dict(zip([kind.__name__ for kind in kinds], threads.map(measure, kinds), strict=True))
    for kind, (lasted, _) in ended.items():
        assert KEEPALIVE_SECONDS - 1 < lasted < KEEPALIVE_SECONDS + 3, kind
    slow = ended["slow_body"][1]
    assert slow.startswith("HTTP/1.1 408 ")
    assert "connection: close" in slow.lower()
    assert '"type":"/problems/request-timeout"' in slow


@pytest.mark.spec("http.unread-body")
@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (f"POST {TASKS} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n", 401),
        (request_head("DELETE", f"{TASKS}/{uuid.UUID(int=1)}", "Content-Length: 9"), 404),
        (post_head("Content-Length: 65537"), 413),
    ],
    ids=["before authentication", "an operation without a body", "too large"],
)
def test_an_early_response_closes_the_connection(service: Service, request_: str, status: int) -> None:
    response = exchange(service, request_)
    assert response.startswith(f"HTTP/1.1 {status} ")
    assert "connection: close" in response.lower()


@pytest.mark.spec("http.unread-body")
def test_a_connection_serves_the_next_request_after_an_unread_body(service: Service) -> None:
    """The service reads the body at once, and rejects the request without having used it."""
    body = "x" * 100_000
    head = f"POST {TASKS} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    worker = worker_pid(service.process.pid)
    with connect(service) as connection:
        # The body queues in the kernel until the worker continues.
        os.kill(worker, signal.SIGSTOP)
        try:
            connection.sendall((head + body).encode())
        finally:
            os.kill(worker, signal.SIGCONT)
        assert connection.recv(65536).startswith(b"HTTP/1.1 401 ")
        connection.sendall(LAST_REQUEST.encode())
        assert read_until_closed(connection).startswith("HTTP/1.1 200 ")


@pytest.mark.spec("http.host")
@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_only_http_1_0_may_omit_the_host(service: Service, version: str) -> None:
    response = exchange(service, f"GET /health/live HTTP/{version}\r\nConnection: close\r\n\r\n")
    assert response.startswith(f"HTTP/{version} 200 " if version == "1.0" else "HTTP/1.1 400 ")


@pytest.mark.spec("http.transfer-coding")
@pytest.mark.parametrize("coding", ["gzip, chunked", "gzip", "identity"])
def test_another_transfer_coding_is_not_implemented(service: Service, coding: str) -> None:
    response = exchange(service, post_head(f"Transfer-Encoding: {coding}") + "0\r\n\r\n")
    # gunicorn itself rejects codings that do not end with chunked.
    assert re.match(r"HTTP/1.1 (501|400) ", response)
    assert not coding.endswith("chunked") or response.startswith("HTTP/1.1 501 ")


@pytest.mark.spec("http.pieces")
@pytest.mark.parametrize(("pieces", "status"), [(1_024, 201), (1_025, 400)])
def test_the_number_of_body_chunks_is_limited(service: Service, pieces: int, status: int) -> None:
    body = '{"title": "x"}'.ljust(pieces)
    chunks = "".join(f"1\r\n{character}\r\n" for character in body)
    response = exchange(
        service, post_head("Transfer-Encoding: chunked", "Connection: close") + chunks + "0\r\n\r\n"
    )
    assert response.startswith(f"HTTP/1.1 {status} ")


@pytest.mark.spec("http.headers-limit")
def test_the_total_size_of_headers_is_limited(service: Service) -> None:
    """32 KiB, of which the request line and the other fields take less than 1,000 bytes."""
    field = "X-Filler: " + "x" * 4_000
    last = "X-Filler: " + "x" * (32 * 1024 - 7 * len(f"{field}\r\n") - 1_000)
    fits = request_head("GET", "/health/live", "Connection: close", *[field] * 7, last)
    assert exchange(service, fits).startswith("HTTP/1.1 200 ")
    assert exchange(
        service, request_head("GET", "/health/live", *[field] * 7, last + "x" * 1_000)
    ).startswith("HTTP/1.1 431 ")
    unfinished = request_head("GET", "/health/live", *[field] * 7, last + "x" * 1_000).removesuffix("\r\n")
    assert exchange(service, unfinished).startswith("HTTP/1.1 431 ")


@pytest.mark.spec("http.headers-limit")
@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (request_head("GET", f"/{'x' * 4_079}", "Connection: close"), 404),
        (request_head("GET", f"/{'x' * 4_200}"), 414),
        (request_head("GET", "/health/live", "Connection: close", *["X-Field: x"] * 97), 200),
        (request_head("GET", "/health/live", *["X-Field: x"] * 99), 431),
        (request_head("GET", "/health/live", f"X-Field: {'x' * 9_000}"), 431),
    ],
    ids=["longest line", "longer line", "most fields", "more fields", "longer field"],
)
def test_the_request_line_and_header_fields_are_limited(service: Service, request_: str, status: int) -> None:
    assert exchange(service, request_).startswith(f"HTTP/1.1 {status} ")


def test_a_pipelined_request_may_arrive_in_parts(service: Service) -> None:
    request = "GET /health/live HTTP/1.1\r\nHost: localhost\r\n"
    with connect(service) as connection:
        connection.sendall(f"{request}\r\n{request}".encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        connection.sendall(b"Connection: close\r\n\r\n")
        assert read_until_closed(connection).startswith("HTTP/1.1 200 ")
    assert "Traceback" not in service.output.read_text()


@pytest.mark.spec("http.malformed-framing")
def test_a_huge_content_length_is_refused_without_a_traceback(service: Service) -> None:
    assert exchange(service, post_head(f"Content-Length: {'9' * 5_000}")).startswith("HTTP/1.1 400 ")
    assert "Traceback" not in service.output.read_text()


@pytest.mark.spec("http.unread-answer", "limits.lists")
def test_unread_responses_use_little_memory_and_time_out(database_url: URL, sql: Sql, tmp_path: Path) -> None:
    users = [f"unread-{number}-{uuid.uuid4()}" for number in range(10)]
    for user in users:
        sql(
            "INSERT INTO tasks (user_id, id, title, description)"
            " SELECT %s, gen_random_uuid(), 'x', repeat(U&'\\+01F600', 5000) FROM generate_series(1, 200)",
            user,
        )
    with (
        running_service(service_environment(database_url), tmp_path / "output") as service,
        ExitStack() as stack,
    ):
        service.client.close()
        worker = worker_pid(service.process.pid)
        exchange(service, request_head("GET", f"{TASKS}?limit=200", "Connection: close", user=users[0]))
        baseline = resident_megabytes(worker)
        connections = []
        for number in range(200):
            connection = stack.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", service.client.base_url.port or 0))
            user = users[number % len(users)]
            connection.sendall(request_head("GET", f"{TASKS}?limit=200", user=user).encode())
            connections.append(connection)
        started_at, peak = time.monotonic(), 0.0
        while established(service) > 0:
            peak = max(peak, resident_megabytes(worker) - baseline)
            assert time.monotonic() - started_at < 25
        assert time.monotonic() - started_at < 15
        assert peak < 60
        response = exchange(
            service, request_head("GET", f"{TASKS}?limit=1", "Connection: close", user=users[0])
        )
        assert response.startswith("HTTP/1.1 200 ")


def worker_pid(process: int) -> int:
    return int(Path(f"/proc/{process}/task/{process}/children").read_text())


def resident_megabytes(process: int) -> float:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    assert found
    return int(found[1]) / 1024


def established(service: Service) -> int:
    """The number of established connections on the service's port, from /proc/net/tcp (state 01, proc(5))."""
    port = service.client.base_url.port or 0
    lines = Path("/proc/net/tcp").read_text().splitlines()
    return sum(bool(re.search(rf"^\s*\d+: \S+:{port:04X} \S+ 01 ", line)) for line in lines)


@pytest.mark.spec("http.pipelining")
def test_reading_ahead_of_pipelined_requests_is_bounded(database_url: URL, tmp_path: Path) -> None:
    """Ten connections send requests as fast as they can for 3 seconds, and read the responses."""
    fields = [f"X-Filler: {'x' * 7_800}"] * 3
    request = "\r\n".join(["GET /nowhere HTTP/1.1", "Host: localhost", *fields, "", ""]).encode()
    with (
        running_service(service_environment(database_url), tmp_path / "output") as service,
        ThreadPoolExecutor(20) as threads,
    ):
        worker = worker_pid(service.process.pid)
        baseline = resident_megabytes(worker)
        ends_at = time.monotonic() + 3

        def write(connection: socket.socket) -> None:
            with suppress(OSError):
                while time.monotonic() < ends_at:
                    connection.sendall(request)
                connection.shutdown(socket.SHUT_RDWR)

        def read(connection: socket.socket) -> None:
            with suppress(OSError), connection:
                while connection.recv(65536):
                    pass

        connections = [connect(service) for _ in range(10)]
        reading = [threads.submit(read, connection) for connection in connections]
        writing = [threads.submit(write, connection) for connection in connections]
        wait_until(lambda: time.monotonic() > ends_at, "the time has not passed")
        peak = resident_megabytes(worker) - baseline
        for each in [*writing, *reading]:
            each.result()
        assert peak < 20


@pytest.mark.spec("process.connections")
def test_connections_queue_while_the_worker_is_busy(database_url: URL, tmp_path: Path) -> None:
    with (
        running_service(service_environment(database_url), tmp_path / "output") as service,
        ExitStack() as stack,
    ):
        worker = worker_pid(service.process.pid)
        os.kill(worker, signal.SIGSTOP)
        stack.callback(os.kill, worker, signal.SIGCONT)
        # Beyond the listen backlog, connect() would wait for a SYN retransmission.
        for _ in range(300):
            stack.enter_context(connect(service))


@pytest.mark.spec("process.connections")
def test_new_connections_evict_the_longest_idle_connection(database_url: URL, tmp_path: Path) -> None:
    environment = service_environment(database_url, GUNICORN_CMD_ARGS="--worker-connections 20")
    with running_service(environment, tmp_path / "output") as service, ExitStack() as stack:
        service.client.close()
        idle = [stack.enter_context(connect(service)) for _ in range(40)]
        response = exchange(service, LAST_REQUEST)
        assert response.startswith("HTTP/1.1 200 ")
        assert [read_until_closed(connection) for connection in idle[:20]] == [""] * 20
        idle[-1].sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert idle[-1].recv(65536).startswith(b"HTTP/1.1 200 ")


def stalled_connection(service: Service, stack: ExitStack) -> None:
    """A connection with more unread responses than the kernel buffers hold."""
    connection = stack.enter_context(socket.socket())
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    connection.connect(("127.0.0.1", service.client.base_url.port or 0))
    connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 200)


@pytest.mark.spec("process.connections")
def test_new_connections_evict_a_stalled_connection(database_url: URL, tmp_path: Path) -> None:
    environment = service_environment(database_url, GUNICORN_CMD_ARGS="--worker-connections 3")
    with running_service(environment, tmp_path / "output") as service, ExitStack() as stack:
        service.client.close()
        worker = worker_pid(service.process.pid)
        for _ in range(3):
            stalled_connection(service, stack)
        wait_until(lambda: is_idle(worker), "the responses do not stall")
        response = exchange(service, LAST_REQUEST)
        assert response.startswith("HTTP/1.1 200 ")


def is_idle(process: int) -> bool:
    """Whether the process sleeps, rather than waits for a CPU, and uses no CPU time for 0.3 seconds."""
    before = state_and_processor_time(process)
    threading.Event().wait(0.3)
    return before[0] == "S" and state_and_processor_time(process) == before


def state_and_processor_time(process: int) -> tuple[str, ...]:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return fields[0], *fields[11:13]


@pytest.mark.spec("http.unread-answer")
def test_a_response_times_out_although_the_kernel_keeps_the_connection(
    database_url: URL, tmp_path: Path
) -> None:
    """The kernel's timeout comes first when a client reads nothing, but not reliably when it reads slowly."""
    configuration = configuration_with("_TCP_USER_TIMEOUT = 3_600_000", tmp_path)
    environment = service_environment(database_url)
    with running_service(environment, tmp_path / "output", configuration) as service, ExitStack() as stack:
        service.client.close()
        stalled_connection(service, stack)
        started_at = time.monotonic()
        wait_until(lambda: not established(service), "the connection is kept", seconds=60)
        assert time.monotonic() - started_at > 15


@pytest.mark.spec("process.connections")
def test_a_new_connection_gets_503_when_all_connections_are_busy(
    database_url: URL, sql: Sql, tmp_path: Path
) -> None:
    environment = service_environment(
        database_url, GUNICORN_CMD_ARGS="--worker-connections 3", DB_STATEMENT_TIMEOUT="30"
    )
    with running_service(environment, tmp_path / "output") as service, ThreadPoolExecutor() as threads:
        owners = [client_as(service.client, f"serving-{uuid.uuid4()}") for _ in range(3)]
        tasks = [owner.create()["id"] for owner in owners]
        service.client.close()
        changes = [
            request_head(
                "PATCH",
                f"{TASKS}/{task}",
                "Content-Length: 13",
                "Content-Type: application/json",
                "Connection: close",
                user=owner.user_id,
            )
            + '{"title":"x"}'
            for owner, task in zip(owners, tasks, strict=True)
        ]
        with ExitStack() as stack:
            locks = [stack.enter_context(Locked(database_url, task)) for task in tasks]
            served = [threads.submit(exchange, service, change) for change in changes]
            for lock in locks:
                lock.wait_for_waiter(sql)
            response = exchange(service, "GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert response.startswith("HTTP/1.1 503 ")
            assert "Retry-After: 2" in response
            for lock in locks:
                lock.release()
        assert [each.result().split()[1] for each in served] == ["200"] * 3


@pytest.mark.spec("process.stop.silent")
@pytest.mark.parametrize(("half", "keepalive"), [(0, 60), (20, 3)], ids=["all silent", "some half-sent"])
def test_shutdown_does_not_wait_for_idle_connections(
    database_url: URL, tmp_path: Path, half: int, keepalive: int
) -> None:
    """Silent connections are closed at once, half-sent ones at their timeout; otherwise it takes 25 s."""
    environment = service_environment(database_url, GUNICORN_CMD_ARGS=f"--keep-alive {keepalive}")
    with (
        running_service(environment, tmp_path / "output") as service,
        ExitStack() as stack,
    ):
        service.client.close()
        connections = [stack.enter_context(connect(service)) for _ in range(300)]
        for connection in connections[:half]:
            partial_request(connection)
        # Sent last: its response shows that gunicorn has accepted the connections before it.
        exchange(service, LAST_REQUEST)
        started_at = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(30) == 0
        assert time.monotonic() - started_at < 12
    assert '"level": "ERROR"' not in (tmp_path / "output").read_text()


@pytest.mark.spec("process.stop.silent")
def test_shutdown_with_a_hung_database_ends_by_the_deadline(database_url: URL, tmp_path: Path) -> None:
    with protocol_proxy(database_url) as proxy, ThreadPoolExecutor() as threads:
        environment = service_environment(proxy.url, DB_CONNECT_TIMEOUT="1", DB_STATEMENT_TIMEOUT="1")
        with running_service(environment, tmp_path / "output") as service:
            service.wait_for("/health/ready", 200)
            proxy.silent = True
            service.client.close()
            waiting = threads.submit(exchange, service, request_head("GET", TASKS, "Connection: close"))
            started_at = time.monotonic()
            service.process.send_signal(signal.SIGTERM)
            assert waiting.result().startswith("HTTP/1.1 503 ")
            assert service.process.wait(30) == 0
            assert time.monotonic() - started_at < 10


def test_an_incompatible_gunicorn_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(ASGIProtocol, "_will_close")
    with pytest.raises(RuntimeError, match="_will_close"):
        BoundedWorker.init_process(object.__new__(BoundedWorker))
