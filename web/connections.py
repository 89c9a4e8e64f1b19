"""Limits on client connections that gunicorn's asgi worker lacks.

gunicorn 27.0.1 starts its idle timer only after a first request
(https://github.com/benoitc/gunicorn/pull/3735) and accepts connections without a
limit (https://github.com/benoitc/gunicorn/pull/3511). Everything here relies on
private parts of gunicorn; `MEMBERS` names them, and a worker does not start when
one of them is gone. No knowledge of tasks, users or the application belongs here.
"""

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

HEADER_BYTES = 32 * 1024
"""Of a request line and all header fields together."""

_FIELD_OVERHEAD = len(b": \r\n")

BODY_SECONDS = 10
"""How long a whole body may take to arrive."""

BODY_PIECES = 1_024
"""Chunks, or reads, of one body: parsing each costs about 3 µs whatever its size."""

UNREAD_SECONDS = 20
"""How long an answer may wait until its peer has read all but the last 16 KiB of it."""

REFUSED_RETRY_SECONDS = 2

MEMBERS = (
    "_arm_keepalive_timer",
    "_close_transport",
    "_feed_callback_parser",
    "_keepalive_timeout",
    "_on_body",
    "_on_headers_complete",
    "_on_message_complete",
    "_send_error_response",
    "_will_close",
    "connection_lost",
    "connection_made",
    "pause_writing",
    "resume_writing",
)
RECEIVER_MEMBERS = ("_body_wait_expired", "_complete", "_wake_waiter")


class BoundedProtocol(ASGIProtocol):  # type: ignore[misc]
    """gunicorn's HTTP/1.1 connection with limits on silence, size and pieces.

    A connection is waiting from when it is made, or its last answer was sent, until
    the headers of its next request are complete. It may wait for `keepalive` seconds.
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
        self._keepalive_timeout()

    def close_waiting(self) -> None:
        """End a connection on which no request is being served.

        It leaves the queue at once: its loss is only reported in the loop's next turn,
        and several newcomers in one turn must not take the same place.
        """
        self._stop_waiting()
        self._keepalive_timeout()

    def has_sent_nothing(self) -> bool:
        """Whether it is waiting, and not a byte of a request has arrived."""
        return self.req_count <= 1 and self._header_bytes == 0

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
        """Have the application told that no more of the body comes; it can still answer."""
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
        missing += [name for name in RECEIVER_MEMBERS if not hasattr(BodyReceiver, name)]
        if missing or not hasattr(gasgi, "ASGIProtocol"):
            raise RuntimeError(f"web/connections.py does not fit this gunicorn: it has no {missing}")
        gasgi.ASGIProtocol = BoundedProtocol
        self.waiting: dict[BoundedProtocol, None] = {}
        self.stalled: dict[BoundedProtocol, None] = {}
        super().init_process()

    def make_room(self, newcomer: BoundedProtocol) -> None:
        longest = next(iter(self.waiting))
        if longest is not newcomer:
            longest.close_waiting()
        elif self.stalled:
            next(iter(self.stalled)).abort()
        else:
            newcomer.refuse()

    def _setup_event_loop(self) -> None:
        """gunicorn does not pass its backlog on, and the loop would listen again with 100."""
        super()._setup_event_loop()
        self.loop.create_server = partial(self.loop.create_server, backlog=self.cfg.backlog)

    async def _shutdown(self) -> None:
        """Stop at once what would only be waited for: connections that never sent a byte."""
        for protocol in [*self.waiting]:
            if protocol.has_sent_nothing():
                protocol.close_waiting()
        await super()._shutdown()
