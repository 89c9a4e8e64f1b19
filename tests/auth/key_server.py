"""A JWKS endpoint like Better Auth's, which can also misbehave."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

PATH = "/api/auth/jwks"


class SigningKey:
    """A private key and its public JWK."""

    def __init__(self, kid: str, algorithm: str = "EdDSA") -> None:
        self.kid = kid
        self.algorithm = algorithm
        self.private: Any
        if algorithm == "EdDSA":
            self.private = ed25519.Ed25519PrivateKey.generate()
            public = OKPAlgorithm.to_jwk(self.private.public_key(), as_dict=True)
        elif algorithm == "ES256":
            self.private = ec.generate_private_key(ec.SECP256R1())
            public = ECAlgorithm.to_jwk(self.private.public_key(), as_dict=True)
        else:
            self.private = rsa.generate_private_key(65537, 2048)
            public = RSAAlgorithm.to_jwk(self.private.public_key(), as_dict=True)
            public = {name: value for name, value in public.items() if name != "key_ops"}
        self.jwk = {**public, "kid": kid, "alg": algorithm}

    def sign(self, claims: dict[str, object], **headers: object) -> str:
        return jwt.encode(claims, self.private, self.algorithm, {"kid": self.kid, **headers})


class KeyServer:
    """Publishes `keys`, or sends `answer` verbatim; records the requests."""

    def __init__(self) -> None:
        self.keys: list[object] = []
        self.answer: tuple[int, dict[str, str], bytes] | None = None
        self.hang = False
        self.slow_part = ""
        self.client_disconnected = threading.Event()
        self.requests: list[str] = []
        self.released = threading.Event()
        self.url = ""

    def respond(self, handler: BaseHTTPRequestHandler) -> None:
        self.requests.append(handler.path)
        if self.hang:
            self.released.wait(30)
        if self.slow_part:
            self._send_slowly(handler)
            return
        body = json.dumps({"keys": self.keys}).encode()
        status, headers, body = self.answer or (200, {"Content-Type": "application/json"}, body)
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def _send_slowly(self, handler: BaseHTTPRequestHandler) -> None:
        """Send a byte every 20 ms until the client disconnects."""
        handler.wfile.write(b"HTTP/1.0 200 OK\r\n" + (b"\r\n" if self.slow_part == "body" else b"X-Slow: "))
        try:
            while not self.released.wait(0.02):
                handler.wfile.write(b" ")
        except OSError:
            self.client_disconnected.set()


@contextmanager
def key_server() -> Iterator[KeyServer]:
    published = KeyServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            published.respond(self)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
            """Do not log to standard error."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        published.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield published
        finally:
            published.released.set()
            server.shutdown()
            thread.join()
