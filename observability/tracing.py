"""OpenTelemetry: database spans, trace IDs for the log, and the timings of both.

Uses `opentelemetry-api` only: its spans are no-ops unless FastAPI configures the SDK
(`requirements-otel.txt`) from the OTEL_* variables when a worker starts. FastAPI creates the
request span; this module adds its children.

Spans must never contain query strings, paths with IDs, headers other than Host, bodies,
tokens, user IDs, SQL parameters or exception messages.
"""

from asyncio import CancelledError
from time import perf_counter_ns, time_ns
from types import TracebackType
from typing import Self

from opentelemetry import propagate, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind, StatusCode
from sqlalchemy.exc import DBAPIError

from database.session import sqlstate
from database.worker import ConnectionWorker
from observability.request_context import current_request

_WAIT = "wait for a connection"
_REDACTED = "REDACTED"

_tracer = trace.get_tracer("tasks-api")

# With OTEL_PROPAGATORS=none, FastAPI 0.165 attaches None as the context and every request
# fails. The baggage propagator does not carry trace context either, and baggage is not used.
if not propagate.get_global_textmap().fields:
    propagate.set_global_textmap(W3CBaggagePropagator())


def request_span(query: bytes) -> Span | None:
    """FastAPI's span of the request in progress, redacted; None if the request is not traced.

    FastAPI sets the path and the query string as attributes. Attributes cannot be removed,
    so they are overwritten. `http.route` has the path template.
    """
    span = trace.get_current_span()
    if span is INVALID_SPAN:
        return None
    span.set_attribute("url.path", _REDACTED)
    if query:
        span.set_attribute("url.query", _REDACTED)
    return span


def trace_fields(span: Span) -> dict[str, str]:
    """`trace_id` and `span_id` for a log line.

    https://opentelemetry.io/docs/specs/otel/compatibility/logging_trace_context/
    """
    context = span.get_span_context()
    return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}


class DatabaseCall:
    """Context manager that times and traces one database call.

    The wait ends when a connection is ready, so it includes opening one. Spans are created
    on exit in the event loop, not in the worker thread, where the work would also delay the
    event loop, which waits for the GIL.
    """

    __slots__ = ("_began_at", "_slot_at", "_summary", "_worker")

    def __init__(self, summary: str) -> None:
        self._summary = summary
        self._worker: ConnectionWorker | None = None
        self._slot_at = 0

    def __enter__(self) -> Self:
        self._began_at = perf_counter_ns()
        return self

    def runs_on(self, worker: ConnectionWorker) -> None:
        """Record the worker that runs the call; it opens a connection if it has none."""
        self._worker = worker
        self._slot_at = perf_counter_ns()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        request = current_request.get()
        if request is None:
            return
        now = perf_counter_ns()
        connected_at = self._worker.connected_at if self._worker is not None else None
        ready_at = now if connected_at is None else max(self._slot_at, connected_at)
        request.wait += (ready_at - self._began_at) / 1e9
        request.database += (now - ready_at) / 1e9
        if request.span is not None and request.span.is_recording():
            self._record(ready_at if connected_at is not None else None, now, error)

    def _record(self, ready_at: int | None, now: int, error: BaseException | None) -> None:
        to_epoch = time_ns() - perf_counter_ns()
        wait = _tracer.start_span(_WAIT, start_time=self._began_at + to_epoch)
        if ready_at is None:
            _fail(wait, error)
            wait.end(now + to_epoch)
            return
        wait.end(ready_at + to_epoch)
        # https://opentelemetry.io/docs/specs/semconv/db/postgresql/
        statement = _tracer.start_span(
            self._summary,
            kind=SpanKind.CLIENT,
            attributes={"db.system.name": "postgresql", "db.query.summary": self._summary},
            start_time=ready_at + to_epoch,
        )
        # A domain error, such as TaskNotFound, is not a failed statement.
        if isinstance(error, DBAPIError | TimeoutError | CancelledError):
            _fail(statement, error)
        statement.end(now + to_epoch)


def _fail(span: Span, error: BaseException | None) -> None:
    """https://opentelemetry.io/docs/specs/semconv/general/recording-errors/"""
    state = sqlstate(error) if isinstance(error, DBAPIError) else None
    if state:
        span.set_attribute("db.response.status_code", state)
    span.set_attribute("error.type", state or type(error).__name__)
    span.set_status(StatusCode.ERROR)
