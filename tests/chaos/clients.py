"""Clients that a public service meets: slow, silent, deaf or gone."""

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
    """As many connections as the service accepts, up to `count`; closed at the end."""
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
    """To those that still take it."""
    for each in sockets:
        with suppress(OSError):
            each.send(data)


def send_slowly(
    sockets: list[socket.socket], piece: bytes, times: int, pause: Callable[[float], None]
) -> None:
    """A piece on every connection once a second."""
    for _ in range(times):
        pause(1)
        send_all(sockets, piece)


def send_and_reset(port: int, request: bytes) -> None:
    """Send a request and reset the connection without waiting for the answer."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as client:
        client.sendall(request)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


def open_at_service(port: int, sockets: Iterable[socket.socket]) -> int:
    """How many of the connections the service still holds, from the kernel's table (proc(5)).

    The client's end alone would not tell: a connection that timed out ends without a word.
    """
    ours = {each.getsockname()[1] for each in sockets if not _closed_by_service(each)}
    still_open = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, *_ = line.split()
        if state == ESTABLISHED and int(local.rpartition(":")[2], 16) == port:
            still_open += int(remote.rpartition(":")[2], 16) in ours
    return still_open


def _closed_by_service(client: socket.socket) -> bool:
    """Closed or reset by the service; its port may then be another connection's."""
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
