"""The request in progress: its identity and timings, for logs, traces and error responses.

A context variable, because the database layer and timers have no request object. Each
request runs in an asyncio task of its own, so requests do not see each other's.
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
    user_id: str | None = None
    """Known once the token has been verified."""
    wait: float = 0.0
    """Until a database connection was ready, including opening one."""
    database: float = 0.0
    """For the statement, including the thread hand-over."""
    at_end: list[Callable[[], None]] = field(default_factory=list)
    """Called once the response has been sent, or the client has disconnected."""


current_request: ContextVar[RequestInfo | None] = ContextVar("current_request", default=None)
"""None outside of a request."""


def current() -> RequestInfo:
    """The request in progress. Raises LookupError outside of one."""
    request = current_request.get()
    if request is None:
        raise LookupError("no request in progress")
    return request
