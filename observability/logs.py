"""Logging: one JSON object per line on standard output.

Log lines must never contain tokens, secrets, passwords, URLs with credentials, or any part
of a request or response body. Exception messages are omitted for this reason, because
drivers and validators include values in them.
"""

import asyncio
import json
import logging
import sys
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TextIO

from gunicorn.glogging import Logger  # type: ignore[import-untyped]
from sqlalchemy.exc import DBAPIError

from database.session import sqlstate
from observability.request_context import current_request
from observability.tracing import trace_fields

BATCH_SECONDS = 0.05
"""How long a log line may be buffered so that it is written together with others."""

BATCH_LINES = 500
"""Maximum number of buffered lines."""

_EXTRA = ("method", "route", "status", "duration_ms", "user_id")


# A shared encoder: `json.dumps` with options creates one per call. The output is ASCII only,
# so that bidirectional controls or homoglyphs in a user ID cannot disguise a line.
_encode = json.JSONEncoder(default=str).encode


class JsonFormatter(logging.Formatter):
    """Formats a record as JSON, with the fields of the request in progress if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name in _EXTRA if (value := getattr(record, name, None)) is not None}
        request = current_request.get()
        if request is not None:
            line["request_id"] = request.request_id
            if request.span is not None:
                line |= trace_fields(request.span)
        if record.exc_info and record.exc_info[1]:
            line["exception"] = "".join(describe(record.exc_info[1]))
        return _encode(line)


def describe(error: BaseException) -> Iterator[str]:
    """The traceback with exception types and SQLSTATEs, causes first, without messages.

    A connection error keeps its message: it contains the host and the user, which an
    operator needs, and libpq never includes the password.
    """
    earlier = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if earlier is not None:
        yield from describe(earlier)
        yield "\n"
    yield from traceback.format_tb(error.__traceback__)
    yield name(error)


def name(error: BaseException) -> str:
    """The exception type; for a database error also its SQLSTATE, or libpq's message without one."""
    kind = type(error).__name__
    if not isinstance(error, DBAPIError):
        return kind
    state = sqlstate(error)
    return f"{kind} (SQLSTATE {state})" if state else f"{kind}: {' '.join(str(error.orig).split())}"


class BatchHandler(logging.StreamHandler[TextIO]):
    """Buffers lines logged in an event loop; lines above INFO or outside a loop are written immediately.

    A write releases the GIL, and under load the event loop waits until a database thread
    releases it again: about 60 µs for each unbuffered line.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.append(self.format(record) + self.terminator)
            if record.levelno > logging.INFO or len(self._lines) >= BATCH_LINES or not self._flush_later():
                self.flush()
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        """Also called by `logging.shutdown` at process exit."""
        self.acquire()
        try:
            lines, self._lines = self._lines, []
            self.stream.write("".join(lines))
        finally:
            self.release()
        super().flush()

    def _flush_later(self) -> bool:
        """Schedule a flush; returns False without a running event loop."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return False
        if len(self._lines) == 1:
            loop.call_later(BATCH_SECONDS, self.flush)
        return True


def configure(level: str) -> None:
    """Log all loggers' records as JSON to standard output."""
    handler = BatchHandler(sys.stdout)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)
    # The source location, thread and process are not logged; collecting them takes about 17 % of
    # a log call: https://docs.python.org/3/howto/logging.html#optimization
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    # This logger logs a malformed OTEL_EXPORTER_OTLP_HEADERS in full, including the collector's token.
    logging.getLogger("opentelemetry.util.re").disabled = True


class GunicornLogger(Logger):  # type: ignore[misc]
    """gunicorn's own log lines in the same format.

    The access log stays disabled even if the platform enables it with GUNICORN_CMD_ARGS: it
    would log paths and query strings, and the service already logs each request.
    """

    access_log_enabled = False

    def setup(self, cfg: object) -> None:
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True
