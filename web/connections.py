"""Limits on client connections that gunicorn's ASGI worker lacks.

gunicorn 27.0.1 starts its idle timer only after a first request
(https://github.com/benoitc/gunicorn/pull/3735) and does not limit the number of
connections (https://github.com/benoitc/gunicorn/pull/3511). This module relies on private
members of gunicorn, listed in `MEMBERS`, `WORKER_MEMBERS` and `RECEIVER_MEMBERS`; a worker
refuses to start if one is missing. This module must not know about tasks, users or the
application.
"""

import logging
from asyncio import BaseTransport, TimerHandle
from functools import partial
from typing import Any

from gunicorn.asgi.parser import (  # type: ignore[import-untyped]
    InvalidHeader,
    LimitRequestHeaders,
    ParseError,
    UnsupportedTransferCoding,
)
from gunicorn.asgi.protocol import ASGIProtocol, BodyReceiver  # type: ignore[import-untyped]
from gunicorn.workers import gasgi  # type: ignore[import-untyped]

log = logging.getLogger(__name__)

HEADER_BYTES = 32 * 1024
"""Maximum size of the request line and all header fields together."""

_FIELD_OVERHEAD = len(b": \r\n")

BODY_SECONDS = 10
"""Maximum time for a complete request body to arrive."""

BODY_PIECES = 1_024
"""Maximum number of chunks or reads per body: parsing each costs about 3 µs regardless of its size."""

UNREAD_SECONDS = 20
"""Maximum time for a client to read all but the last 16 KiB of a response."""

BUFFER_BYTES = 64 * 1024
"""Bytes of a body or of pipelined requests that are buffered before reading is paused (backpressure)."""

REFUSED_RETRY_SECONDS = 2
"""Retry-After of a refused connection."""

WARNING_SECONDS = 10.0
"""Minimum interval between two log lines about refused connections."""

MEMBERS = (
    "_arm_keepalive_timer",
    "_close_transport",
    "_feed_callback_parser",
    "_keepalive_timeout",
    "_on_body",
    "_on_headers_complete",
    "_on_message_complete",
    "_http1_buffered",
    "_resume_reading",
    "_send_error_response",
    "_will_close",
    "connection_lost",
    "connection_made",
    "pause_writing",
    "resume_writing",
)
WORKER_MEMBERS = ("_setup_event_loop", "_shutdown", "init_process")
RECEIVER_MEMBERS = ("_body_wait_expired", "_complete", "_wake_waiter", "buffered")


class BoundedProtocol(ASGIProtocol):  # type: ignore[misc]
    """gunicorn's HTTP/1.1 protocol with timeouts and limits on sizes and chunk counts.

    A connection is waiting from accept, or from the end of its last response, until the
    next request's headers are complete. It is closed after waiting for `keepalive` seconds.
    """

    worker: "BoundedWorker"
    _waiting = False
    _closing = False
    _header_bytes = 0
    _body_pieces = 0
    _body_timer: TimerHandle | None = None
    _unread_timer: TimerHandle | None = None

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(transport)
        self._max_buffer_size = BUFFER_BYTES
        self._arm_keepalive_timer()
        if self.worker.nr_conns > self.cfg.worker_connections:
            self.worker.make_room(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._cancel_body_timer()
        self._stop_stalling()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Called when the write buffer is full because the client reads slowly or not at all."""
        super().pause_writing()
        self.worker.stalled[self] = None
        self._unread_timer = self.worker.loop.call_later(UNREAD_SECONDS, self.abort)

    def resume_writing(self) -> None:
        self._stop_stalling()
        super().resume_writing()

    def _stop_stalling(self) -> None:
        self.worker.stalled.pop(self, None)
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None

    def abort(self) -> None:
        """Close the connection and discard unsent data."""
        self._stop_stalling()
        self.transport.abort()

    def refuse(self) -> None:
        """Respond with 503 because all connection slots are in use."""
        self._send_error_response(503, "Too many connections", (("Retry-After", str(REFUSED_RETRY_SECONDS)),))
        self._stop_waiting()
        self._close_transport()
        self._request_ready.set()

    def close_waiting(self) -> None:
        """Close a connection that has no request in progress."""
        self._keepalive_timeout()

    def has_sent_nothing(self) -> bool:
        """Whether no byte of a request has arrived since accept."""
        return self.req_count <= 1 and self._header_bytes == 0

    def _keepalive_timeout(self) -> None:
        """Close the connection, and abort it if the client has not read the last response.

        It is removed from `waiting` immediately: `connection_lost` runs only in a later
        iteration of the event loop, and the same slot must not be freed twice.
        """
        self._stop_waiting()
        super()._keepalive_timeout()
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    def _resume_reading(self) -> None:
        """Stay paused while pipelined requests fill the buffer; gunicorn would resume after each response.

        The body of the current request does not count: what is left of it is discarded.
        """
        body = self._body_receiver.buffered if self._body_receiver else 0
        if self._http1_buffered() - body <= BUFFER_BYTES:
            super()._resume_reading()

    def _arm_keepalive_timer(self) -> None:
        super()._arm_keepalive_timer()
        self._waiting = True
        self._header_bytes = 0
        self.worker.waiting[self] = None

    def _stop_waiting(self) -> None:
        self._waiting = False
        self.worker.waiting.pop(self, None)

    def _feed_callback_parser(self, data: bytes) -> bool:
        if self._closing:
            # Parsing the remaining data could only produce a second response to the same request.
            return False
        if self._waiting:
            self._header_bytes += len(data)
        try:
            keep_reading: bool = super()._feed_callback_parser(data)
        except ValueError:
            # For example a Content-Length with more digits than int() accepts, which gunicorn does not check.
            return self._refuse_malformed(400, "Malformed request")
        if not keep_reading:
            return False
        if self._waiting:
            return self._header_bytes <= HEADER_BYTES or self._refuse_malformed(
                431, "Request headers too large"
            )
        receiver = self._body_receiver
        if receiver is not None and not receiver._complete and self._body_timer is None:
            self._body_timer = self.worker.loop.call_later(BODY_SECONDS, self._expire_body)
        return True

    def _refuse_malformed(self, status: int, message: str) -> bool:
        self._send_error_response(status, message)
        self._close_transport()
        return False

    def _expire_body(self) -> None:
        """Make the pending `receive()` return `http.disconnect`; the application can still respond."""
        self._body_receiver._body_wait_expired = True
        self._body_receiver._wake_waiter()

    def _cancel_body_timer(self) -> None:
        if self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None

    def _on_message_complete(self) -> None:
        self._cancel_body_timer()
        super()._on_message_complete()

    def _on_headers_complete(self) -> Any:
        skip_body = super()._on_headers_complete()
        self._stop_waiting()
        self._body_pieces = 0
        _check_headers(self._current_request)
        return skip_body

    def _on_body(self, chunk: bytes) -> None:
        self._body_pieces += 1
        if self._body_pieces > BODY_PIECES:
            raise ParseError("Body in too many pieces")
        super()._on_body(chunk)

    def _will_close(self, request: Any, response_requires_close: bool) -> bool:
        """Also close if the body is incomplete: the rest is not read, so no further request can follow."""
        receiver = self._body_receiver
        unread = receiver is not None and not receiver._complete
        self._closing |= unread or super()._will_close(request, response_requires_close)
        return self._closing


def _check_headers(request: Any) -> None:
    """Checks that RFC 9112 requires (sections 3.2 and 6.1) and gunicorn does not make."""
    host, size = False, 0
    for name, value in request.headers_bytes:
        size += len(name) + len(value) + _FIELD_OVERHEAD
        if name == b"host":
            host = True
        elif name == b"transfer-encoding" and value.strip().lower() != b"chunked":
            raise UnsupportedTransferCoding("Only chunked is supported")
    if size > HEADER_BYTES:
        raise LimitRequestHeaders("Request headers too large")
    if not host and request.version >= (1, 1):
        raise InvalidHeader("Host is missing")


class BoundedWorker(gasgi.ASGIWorker):  # type: ignore[misc]
    """gunicorn's ASGI worker, limited to `worker_connections` connections at a time.

    At the limit, a new connection replaces the one that has waited longest for a request,
    or otherwise the one whose client has stalled longest in reading its response, so that
    idle and slow clients cannot exhaust the slots. If there is neither, it is refused.
    """

    def init_process(self) -> None:
        missing = [name for name in MEMBERS if not hasattr(ASGIProtocol, name)]
        missing += [name for name in WORKER_MEMBERS if not hasattr(gasgi.ASGIWorker, name)]
        missing += [name for name in RECEIVER_MEMBERS if not hasattr(BodyReceiver, name)]
        if missing or not hasattr(gasgi, "ASGIProtocol"):
            raise RuntimeError(
                f"web/connections.py is incompatible with this gunicorn version: missing {missing}"
            )
        gasgi.ASGIProtocol = BoundedProtocol
        self.waiting: dict[BoundedProtocol, None] = {}
        self.stalled: dict[BoundedProtocol, None] = {}
        self._warn_again_at = 0.0
        super().init_process()

    def make_room(self, newcomer: BoundedProtocol) -> None:
        longest_waiting = next(iter(self.waiting))
        if longest_waiting is not newcomer:
            longest_waiting.close_waiting()
        elif self.stalled:
            next(iter(self.stalled)).abort()
        else:
            newcomer.refuse()
            self._warn()

    def _warn(self) -> None:
        if self.loop.time() >= self._warn_again_at:
            self._warn_again_at = self.loop.time() + WARNING_SECONDS
            log.warning(
                "Connections refused: all %d connection slots are in use", self.cfg.worker_connections
            )

    def _setup_event_loop(self) -> None:
        """Pass gunicorn's `backlog` to the event loop, which would call listen() again with 100."""
        super()._setup_event_loop()
        self.loop.create_server = partial(self.loop.create_server, backlog=self.cfg.backlog)

    async def _shutdown(self) -> None:
        """Close connections that never sent a byte: gunicorn would wait until their timeout."""
        for protocol in [*self.waiting]:
            if protocol.has_sent_nothing():
                protocol.close_waiting()
        await super()._shutdown()
