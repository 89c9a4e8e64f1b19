"""OpenTelemetry: database spans, trace IDs for the log, and the timings of both.

Uses `opentelemetry-api` only, whose spans are no-ops until FastAPI configures the SDK
(`requirements-otel.txt`) from the OTEL_* variables at start-up, in each worker. FastAPI
makes the request span; this module adds its children.

Never in a span: query strings, paths with IDs, headers, bodies, tokens, user IDs, SQL
parameters, exception messages.
"""

from collections.abc import Callable
from time import perf_counter_ns, time_ns
from types import TracebackType
from typing import Self, TypeVar

from opentelemetry import propagate, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.trace import Span, SpanKind, StatusCode
from sqlalchemy.exc import DBAPIError

from lanes import UserSession, sqlstate
from request_context import current_request

T = TypeVar("T")

_WAIT = "wait for a connection"

_tracer = trace.get_tracer("tasks-api")

# With OTEL_PROPAGATORS=none, FastAPI 0.165 attaches None as the context and every request
# fails. Baggage has no trace context either, and nothing here reads or forwards it.
if not propagate.get_global_textmap().fields:
    propagate.set_global_textmap(W3CBaggagePropagator())


def trace_fields() -> dict[str, str]:
    """`trace_id` and `span_id` of the current span, for a log line.

    https://opentelemetry.io/docs/specs/otel/compatibility/logging_trace_context/
    """
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return {}
    return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}


class DatabaseCall:
    """Context manager around one piece of database work: times it, and traces it.

    The wait ends when the work starts on an open connection, so it includes opening one.
    Spans are made on exit, in the event loop; the worker thread only reads the clock.
    """

    __slots__ = ("_done_at", "_ready_at", "_started_at", "_summary")

    def __init__(self, summary: str) -> None:
        self._summary = summary
        self._ready_at = self._done_at = 0

    def __enter__(self) -> Self:
        self._started_at = perf_counter_ns()
        return self

    def timed(self, work: Callable[[UserSession], T]) -> Callable[[UserSession], T]:
        """`work`, to be called in the worker thread once there is a connection."""

        def run(session: UserSession) -> T:
            self._ready_at = perf_counter_ns()
            try:
                return work(session)
            finally:
                self._done_at = perf_counter_ns()

        return run

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        now = perf_counter_ns()
        ready_at = self._ready_at or now
        done_at = self._done_at or now
        request = current_request.get()
        if request is not None:
            request.wait += (ready_at - self._started_at) / 1e9
            request.database += (done_at - ready_at) / 1e9
        if trace.get_current_span().is_recording():
            self._record(ready_at, done_at, error)

    def _record(self, ready_at: int, done_at: int, error: BaseException | None) -> None:
        to_epoch = time_ns() - perf_counter_ns()
        wait = _tracer.start_span(_WAIT, start_time=self._started_at + to_epoch)
        if not self._ready_at:
            _fail(wait, error)
        wait.end(ready_at + to_epoch)
        if not self._ready_at:
            return
        # https://opentelemetry.io/docs/specs/semconv/db/postgresql/
        statement = _tracer.start_span(
            self._summary,
            kind=SpanKind.CLIENT,
            attributes={"db.system.name": "postgresql", "db.query.summary": self._summary},
            start_time=ready_at + to_epoch,
        )
        # A domain error, such as TaskNotFound, is not a failed statement.
        if not self._done_at or isinstance(error, DBAPIError):
            _fail(statement, error)
        statement.end(done_at + to_epoch)


def _fail(span: Span, error: BaseException | None) -> None:
    """https://opentelemetry.io/docs/specs/semconv/general/recording-errors/"""
    state = sqlstate(error) if isinstance(error, DBAPIError) else None
    if state:
        span.set_attribute("db.response.status_code", state)
    span.set_attribute("error.type", state or type(error).__name__)
    span.set_status(StatusCode.ERROR)
