"""Limits on client connections that gunicorn's asgi worker lacks.

gunicorn 27.0.1 starts its idle timer only after a first request
(https://github.com/benoitc/gunicorn/pull/3735) and accepts connections without a
limit (https://github.com/benoitc/gunicorn/pull/3511). Everything here relies on
private parts of gunicorn; `MEMBERS` names them, and a worker does not start when
one of them is gone. No knowledge of tasks, users or the application belongs here.
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
"""Of a request line and all header fields together."""

_FIELD_OVERHEAD = len(b": \r\n")

BODY_SECONDS = 10
"""How long a whole body may take to arrive."""

BODY_PIECES = 1_024
"""Chunks, or reads, of one body: parsing each costs about 3 µs whatever its size."""

UNREAD_SECONDS = 20
"""How long an answer may wait until its peer has read all but the last 16 KiB of it."""

BUFFER_BYTES = 64 * 1024
"""Held of a body, or of pipelined requests, before the service stops reading."""

REFUSED_RETRY_SECONDS = 2

WARNING_SECONDS = 10.0
"""How often the log says at most that connections are refused."""

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
RECEIVER_MEMBERS = ("_body_wait_expired", "_complete", "_wake_waiter")


class BoundedProtocol(ASGIProtocol):  # type: ignore[misc]
    """gunicorn's HTTP/1.1 connection with limits on silence, size and pieces.

    A connection counts as waiting from accept, or from the end of its last response,
    until the next request's headers are complete. It may wait for `keepalive` seconds.
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
        """The kernel takes no more, because the peer reads nothing or slowly."""
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
        """End a connection without waiting for what is still to be sent."""
        self._stop_stalling()
        self.transport.abort()

    def refuse(self) -> None:
        """Answer 503 to a connection for which there is no room."""
        self._send_error_response(503, "Too many connections", (("Retry-After", str(REFUSED_RETRY_SECONDS)),))
        self._stop_waiting()
        self._close_transport()
        self._request_ready.set()

    def close_waiting(self) -> None:
        """End a connection on which no request is being served."""
        self._keepalive_timeout()

    def has_sent_nothing(self) -> bool:
        """Whether it is waiting, and not a byte of a request has arrived."""
        return self.req_count <= 1 and self._header_bytes == 0

    def _keepalive_timeout(self) -> None:
        """Close, without waiting for a peer that has not read the last answer.

        The connection leaves the queue at once: its loss is reported in a later turn of
        the loop, and no newcomer must be given its place a second time.
        """
        self._stop_waiting()
        super()._keepalive_timeout()
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    def _resume_reading(self) -> None:
        """Not while pipelined requests fill the buffer: gunicorn would read on after each answer."""
        if self._http1_buffered() <= BUFFER_BYTES:
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
            # Parsing what is left could only produce a second answer to the same request.
            return False
        if self._waiting:
            self._header_bytes += len(data)
        try:
            going_on: bool = super()._feed_callback_parser(data)
        except ValueError:
            # Such as a Content-Length of more digits than int() takes, which gunicorn lets through.
            return self._refuse_malformed(400, "Malformed request")
        if not going_on:
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
        """Make `receive()` return `http.disconnect`; the application can still respond."""
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
        """Also when the rest of the body is still to come: it is not read, so nothing can follow it."""
        receiver = self._body_receiver
        unread = receiver is not None and not receiver._complete
        self._closing |= unread or super()._will_close(request, response_requires_close)
        return self._closing


def _check_headers(request: Any) -> None:
    """What RFC 9112 demands (sections 3.2 and 6.1) and gunicorn lets through."""
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
    """gunicorn's asgi worker, which serves at most `worker_connections` at a time.

    One more takes the place of the one that has waited longest for a request, or else
    whose peer has not read its answer for longest, so that neither can lock newcomers
    out; when there is none, it is refused.
    """

    def init_process(self) -> None:
        missing = [name for name in MEMBERS if not hasattr(ASGIProtocol, name)]
        missing += [name for name in WORKER_MEMBERS if not hasattr(gasgi.ASGIWorker, name)]
        missing += [name for name in RECEIVER_MEMBERS if not hasattr(BodyReceiver, name)]
        if missing or not hasattr(gasgi, "ASGIProtocol"):
            raise RuntimeError(f"web/connections.py does not fit this gunicorn: it has no {missing}")
        gasgi.ASGIProtocol = BoundedProtocol
        self.waiting: dict[BoundedProtocol, None] = {}
        self.stalled: dict[BoundedProtocol, None] = {}
        self._warn_again_at = 0.0
        super().init_process()

    def make_room(self, newcomer: BoundedProtocol) -> None:
        longest = next(iter(self.waiting))
        if longest is not newcomer:
            longest.close_waiting()
        elif self.stalled:
            next(iter(self.stalled)).abort()
        else:
            newcomer.refuse()
            self._warn()

    def _warn(self) -> None:
        if self.loop.time() >= self._warn_again_at:
            self._warn_again_at = self.loop.time() + WARNING_SECONDS
            log.warning("Connections refused: all %d are being served", self.cfg.worker_connections)

    def _setup_event_loop(self) -> None:
        """gunicorn does not pass its backlog on, and the loop would listen again with 100."""
        super()._setup_event_loop()
        self.loop.create_server = partial(self.loop.create_server, backlog=self.cfg.backlog)

    async def _shutdown(self) -> None:
        """Close connections that never sent a byte: gunicorn would wait for them."""
        for protocol in [*self.waiting]:
            if protocol.has_sent_nothing():
                protocol.close_waiting()
        await super()._shutdown()
