"""The log: one JSON object a line on standard output.

What must never be in it: tokens, secrets, passwords, URLs with credentials, and
anything of a body. Messages of exceptions are left out for that reason, because
drivers and validators put values into them.
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
"""How long the line of a request may wait for others, to be written together with them."""

BATCH_LINES = 500
"""How many may wait at most."""

_EXTRA = ("method", "route", "status", "duration_ms", "user_id")


# One encoder for all lines: `json.dumps` with options makes one for each. ASCII only,
# so that no bidirectional control or look-alike of a user id can disguise a line.
_encode = json.JSONEncoder(default=str).encode


class JsonFormatter(logging.Formatter):
    """Renders a record with the fields of the request in progress, if any."""

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
    """The traceback with types and SQLSTATEs, causes first, and without messages.

    A refused connection keeps its message: it names host and user, which is
    what an operator needs, and libpq never puts the password there.
    """
    earlier = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if earlier is not None:
        yield from describe(earlier)
        yield "\n"
    yield from traceback.format_tb(error.__traceback__)
    yield name(error)


def name(error: BaseException) -> str:
    """The type of the error, and of one of the database what may be told of it."""
    kind = type(error).__name__
    if not isinstance(error, DBAPIError):
        return kind
    state = sqlstate(error)
    return f"{kind} (SQLSTATE {state})" if state else f"{kind}: {' '.join(str(error.orig).split())}"


class BatchHandler(logging.StreamHandler[TextIO]):
    """Writes the lines of an event loop together; at once what is graver than INFO, or outside of one.

    A write gives up the interpreter, and under load a request waits for it until
    a thread of the database is done: some 60 µs, for each line that is written by itself.
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
        """Also called by `logging` when the process ends."""
        self.acquire()
        try:
            lines, self._lines = self._lines, []
            self.stream.write("".join(lines))
        finally:
            self.release()
        super().flush()

    def _flush_later(self) -> bool:
        """Whether a running loop will do it."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return False
        if len(self._lines) == 1:
            loop.call_later(BATCH_SECONDS, self.flush)
        return True


def configure(level: str) -> None:
    """Send every logger's records through the formatter to standard output."""
    handler = BatchHandler(sys.stdout)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)
    # Nothing here prints where a line was logged, or in which thread; collecting
    # them takes a sixth of each log call: https://docs.python.org/3/howto/logging.html#optimization
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    # Logs a malformed OTEL_EXPORTER_OTLP_HEADERS in full, with the collector's token.
    logging.getLogger("opentelemetry.util.re").disabled = True


class GunicornLogger(Logger):  # type: ignore[misc]
    """gunicorn's own lines, in the same form.

    Its access log stays off, even where the platform asks for one: it would
    print paths and queries, and the service logs each request already.
    """

    access_log_enabled = False

    def setup(self, cfg: object) -> None:
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True
