"""A proxy in front of PostgreSQL that records frontend messages and can break connections.

Tests count round trips with it (each frontend message after start-up is one) and
simulate lost and hung connections.
"""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from sqlalchemy import URL

PROTOCOL_VERSION = 196608
PASSWORD_MESSAGE = "p"


@dataclass
class ProtocolProxy:
    """`messages` are the frontend messages since the last `clear`."""

    url: URL
    messages: list[str] = field(default_factory=list)
    connections: list[socket.socket] = field(default_factory=list)
    connections_opened: int = 0
    silent: bool = False
    """Drop responses. A connection that has lost one stays silent even after this is false again."""
    held: bool = False
    """Delay responses for as long as this is true."""
    held_after: str | None = None
    """Set `held` at the first message that contains this."""
    silent_after: str | None = None
    """Set `silent` at the first message that contains this; TCP connections stay open."""

    def clear(self) -> None:
        self.messages.clear()

    def close_connections(self) -> None:
        """Close every connection, as a server does when it suspends."""
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.connections.clear()


@contextmanager
def protocol_proxy(url: URL, port: int = 0) -> Iterator[ProtocolProxy]:
    with socket.create_server(("127.0.0.1", port)) as listener:
        proxy = ProtocolProxy(url.set(host="127.0.0.1", port=listener.getsockname()[1]))
        thread = threading.Thread(target=_accept, args=(listener, url, proxy), daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            proxy.close_connections()
            thread.join()


def _accept(listener: socket.socket, url: URL, proxy: ProtocolProxy) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        server = socket.create_connection((url.host or "127.0.0.1", url.port or 5432))
        proxy.connections_opened += 1
        proxy.connections += [client, server]
        threading.Thread(target=_copy, args=(server, client, proxy), daemon=True).start()
        threading.Thread(target=_forward, args=(client, server, proxy), daemon=True).start()


def _copy(source: socket.socket, target: socket.socket, proxy: ProtocolProxy) -> None:
    silent = False
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            while proxy.held:
                time.sleep(0.01)
            silent = silent or proxy.silent
            if not silent:
                target.sendall(data)
    _close(source, target)


def _forward(client: socket.socket, server: socket.socket, proxy: ProtocolProxy) -> None:
    """Forward frontend messages one by one. Messages up to the start-up message have no type byte."""
    with contextlib.suppress(OSError, EOFError):
        code = 0
        while code != PROTOCOL_VERSION:
            header = _read(client, 8)
            length, code = struct.unpack("!II", header)
            server.sendall(header + _read(client, length - 8))
        while True:
            header = _read(client, 5)
            kind, length = struct.unpack("!cI", header)
            body = _read(client, length - 4)
            if kind.decode() != PASSWORD_MESSAGE:
                proxy.messages.append(kind.decode() + body.decode(errors="replace"))
            if proxy.held_after is not None and proxy.held_after.encode() in body:
                proxy.held = True
            if proxy.silent_after is not None and proxy.silent_after.encode() in body:
                proxy.silent = True
            server.sendall(header + body)
    _close(client, server)


def _read(source: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        chunk = source.recv(count - len(data))
        if not chunk:
            raise EOFError
        data += chunk
    return data


def _close(*sockets: socket.socket) -> None:
    for each in sockets:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()
