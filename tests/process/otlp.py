"""An OTLP collector for the tests: receives OTLP over HTTP/protobuf and stores the payloads.

Decodes them with the protocol's generated classes from `opentelemetry-proto`.
"""

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Collector:
    """`payloads` are the decompressed bodies, by path: `/v1/traces`, `/v1/metrics`, `/v1/logs`."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.payloads: list[tuple[str, bytes]] = []

    def paths(self) -> set[str]:
        return {path for path, _ in self.payloads}

    def spans(self) -> list[Span]:
        requests = [
            ExportTraceServiceRequest.FromString(body) for path, body in self.payloads if path == "/v1/traces"
        ]
        return [
            span
            for request in requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


def attributes(pairs: Iterator[KeyValue]) -> dict[str, str | int]:
    return {pair.key: pair.value.string_value or pair.value.int_value for pair in pairs}


@contextmanager
def collector() -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers["Content-Encoding"] == "gzip":
                body = gzip.decompress(body)
            received.payloads.append((self.path, body))
            # An empty message is an Export…ServiceResponse of full success.
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        received = Collector(f"http://127.0.0.1:{server.server_port}")
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield received
        finally:
            server.shutdown()
