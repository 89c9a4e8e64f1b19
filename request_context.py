"""The request in progress, for whoever logs or measures on its behalf.

A context variable, because the database layer and timers know no request object.
Each request runs in a task of its own, so that none sees another's.
"""

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field

from opentelemetry.trace import Span


@dataclass(slots=True)
class RequestInfo:
    """Identity and timings of one request; durations are in seconds."""

    request_id: str
    span: Span | None = None
    """The request's span, when there is a trace; looked up once."""
    wait: float = 0.0
    """Spent until a database connection was ready, opening it included."""
    database: float = 0.0
    """Spent on the statement, thread hand-over included."""
    at_end: list[Callable[[], None]] = field(default_factory=list)
    """Called once the answer has been sent, or the client is gone."""


current_request: ContextVar[RequestInfo | None] = ContextVar("current_request", default=None)
