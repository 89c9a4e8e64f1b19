"""The request in progress: its identity and timings, for logs, traces and error responses.

A context variable is used because the database layer and timers have no request object.
Each request runs in its own asyncio task, so requests cannot see each other's values.
"""

import math
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field

from opentelemetry.trace import Span


@dataclass(slots=True)
class RequestInfo:
    """Identity and timings of one request; durations are in seconds."""

    request_id: str
    span: Span | None = None
    """The request's span, or None if the request is not traced. Looked up once."""
    wants_body: bool = True
    """False for HEAD, which is otherwise handled as GET."""
    user_id: str | None = None
    """Set once the token has been verified."""
    accepted_until: float = math.inf
    """Until when the token is accepted, in Unix seconds."""
    wait: float = 0.0
    """Time until a database connection was ready, including opening one."""
    database: float = 0.0
    """Time for the statement, including the hand-over to the thread."""
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
