"""Misbehaving clients: slow or silent ones, and ones that do not read or disconnect."""

import select
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ESTABLISHED = "01"
RESET = struct.pack("ii", 1, 0)
SMALL_BUFFER = 4096


@contextmanager
def connections(port: int, count: int, receive_buffer: int | None = None) -> Iterator[list[socket.socket]]:
    """Open up to `count` connections, as many as the service accepts; close them at the end."""
    sockets: list[socket.socket] = []
    try:
        for _ in range(count):
            each = socket.socket()
            sockets.append(each)
            if receive_buffer is not None:
                each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", port))
        yield sockets
    finally:
        for each in sockets:
            each.close()


def send_all(sockets: Iterable[socket.socket], data: bytes) -> None:
    """Send on every connection that is still open."""
    for each in sockets:
        with suppress(OSError):
            each.send(data)


def send_slowly(
    sockets: list[socket.socket], piece: bytes, times: int, pause: Callable[[float], None]
) -> None:
    """Send `piece` on every connection once a second."""
    for _ in range(times):
        pause(1)
        send_all(sockets, piece)


def send_and_reset(port: int, request: bytes) -> None:
    """Send a request and reset the connection without reading the response."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as client:
        client.sendall(request)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


def open_at_service(port: int, sockets: Iterable[socket.socket]) -> int:
    """How many of the connections are still open at the service, from /proc/net/tcp (proc(5)).

    The client's end is not enough: the service may have dropped a connection without a FIN.
    """
    ours = {each.getsockname()[1] for each in sockets if not _closed_by_service(each)}
    still_open = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, *_ = line.split()
        if state == ESTABLISHED and int(local.rpartition(":")[2], 16) == port:
            still_open += int(remote.rpartition(":")[2], 16) in ours
    return still_open


def _closed_by_service(client: socket.socket) -> bool:
    """Whether the service closed or reset it; its port may then have been reused."""
    poll = select.poll()
    poll.register(client, select.POLLRDHUP)
    return bool(poll.poll(0))


def request(method: str, path: str, token: str, body: bytes = b"", length: int | None = None) -> bytes:
    lines = [
        f"{method} {path} HTTP/1.1",
        "Host: localhost",
        f"Authorization: Bearer {token}",
        "Content-Type: application/json",
        f"Content-Length: {len(body) if length is None else length}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body
