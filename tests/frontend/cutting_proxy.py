"""A proxy in front of the API that cuts connections after the API has answered."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from tests.process.service import Service


@dataclass
class CuttingProxy:
    url: str
    cuts: list[bytes] = field(default_factory=list)
    """Beginnings of requests whose answers are still to be cut off, each once."""


@contextmanager
def cutting_proxy(api: Service) -> Iterator[CuttingProxy]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = CuttingProxy(f"http://127.0.0.1:{listener.getsockname()[1]}")
        target = ("127.0.0.1", api.client.base_url.port or 0)
        threading.Thread(target=_accept, args=(listener, target, proxy), daemon=True).start()
        yield proxy
        listener.shutdown(socket.SHUT_RDWR)


def _accept(listener: socket.socket, target: tuple[str, int], proxy: CuttingProxy) -> None:
    with suppress(OSError):
        while True:
            client, _ = listener.accept()
            threading.Thread(target=_serve, args=(client, target, proxy), daemon=True).start()


def _serve(client: socket.socket, target: tuple[str, int], proxy: CuttingProxy) -> None:
    """One request after the other. The page's requests and their answers are small enough for one read."""
    with suppress(OSError), client, socket.create_connection(target) as server:
        while request := client.recv(65_536):
            server.sendall(request)
            answer = server.recv(262_144)
            for beginning in proxy.cuts:
                if request.startswith(beginning):
                    # The browser itself sends a request again that got no byte of an answer.
                    client.sendall(answer[:-2])
                    proxy.cuts.remove(beginning)
                    return
            client.sendall(answer)
