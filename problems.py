"""RFC 9457 problem details: the types, the exceptions, and what they become.

    ProblemError                an answer that is a problem, with its type

Everything that is not a success leaves the service through `response`. Details
are fixed sentences: nothing of a request is ever repeated.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated

from pydantic import BaseModel, Field
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from starlette.responses import Response

from db import NOT_MIGRATED
from lanes import READ_ONLY, sqlstate

MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = 2
"""What `Retry-After` says while the database or the keys are away."""


@dataclass(frozen=True, slots=True)
class ProblemType:
    """One row of the table in specs/api/rest-endpoints.md, section 5."""

    name: str
    status: int
    title: str
    explanation: str


MALFORMED_BODY = ProblemType(
    "malformed-body",
    400,
    "The body cannot be parsed",
    "The body is not JSON in UTF-8 (RFC 8259), or an object in it has the same name twice. "
    "Mend the body; sending it again will not help.",
)
INVALID_CURSOR = ProblemType(
    "invalid-cursor",
    400,
    "The cursor does not belong to this list",
    "A cursor is good only for the user and for the value of `completed` with which it was "
    "given out. Follow the `Link` header as it is, or begin again without a cursor.",
)
CORS_REFUSED = ProblemType(
    "cors-refused",
    400,
    "The preflight is refused",
    "The origin, the method or a header of the request that the browser asks about is not "
    "allowed. Origins are allowed by the setting CORS_ORIGINS.",
)
UNAUTHORIZED = ProblemType(
    "unauthorized",
    401,
    "A valid bearer token is needed",
    "The request has no token, or one that is refused; the WWW-Authenticate header says why. "
    "Get a new token from Better Auth (GET /api/auth/token) and send it as "
    "`Authorization: Bearer <token>`.",
)
INSUFFICIENT_SCOPE = ProblemType(
    "insufficient-scope",
    403,
    "The token does not allow this",
    "The token is limited by its `scope` claim. Reading needs `tasks:read`, everything else "
    "needs `tasks:write`.",
)
NOT_FOUND = ProblemType(
    "not-found",
    404,
    "Not found",
    "There is no such path, or no such task among your own.",
)
METHOD_NOT_ALLOWED = ProblemType(
    "method-not-allowed",
    405,
    "The method is not allowed here",
    "The path exists, but not with this method. The Allow header names those it has.",
)
REQUEST_TIMEOUT = ProblemType(
    "request-timeout",
    408,
    "The body took too long",
    "A body has to arrive within 10 seconds. Send the request again.",
)
BODY_TOO_LARGE = ProblemType(
    "body-too-large",
    413,
    "The body is too large",
    "A body has at most 65,536 bytes.",
)
UNSUPPORTED_MEDIA_TYPE = ProblemType(
    "unsupported-media-type",
    415,
    "The media type is not supported",
    "Bodies are `application/json` in UTF-8 without a content coding; PATCH also takes "
    "`application/merge-patch+json`. Set the Content-Type header.",
)
INVALID_REQUEST = ProblemType(
    "invalid-request",
    422,
    "The request breaks a rule",
    "The request can be read, but a value in it is not allowed. `errors` lists what is wrong: "
    "`pointer` is a JSON Pointer into the body, `parameter` a parameter of the path or query.",
)
TOO_MANY_REQUESTS = ProblemType(
    "too-many-requests",
    429,
    "Too many requests",
    "A rate limit is used up. Wait for the seconds in the Retry-After header.",
)
INTERNAL_ERROR = ProblemType(
    "internal-error",
    500,
    "An unforeseen fault",
    "The service failed in a way nobody foresaw. Report it with the request id (`instance`), "
    "which is in the service's log.",
)
UNAVAILABLE = ProblemType(
    "unavailable",
    503,
    "Not available now",
    "The database or the keys that verify tokens cannot be reached, or are overloaded. "
    "Try again after the seconds in the Retry-After header.",
)

TYPES = {
    each.name: each
    for each in (
        MALFORMED_BODY,
        INVALID_CURSOR,
        CORS_REFUSED,
        UNAUTHORIZED,
        INSUFFICIENT_SCOPE,
        NOT_FOUND,
        METHOD_NOT_ALLOWED,
        REQUEST_TIMEOUT,
        BODY_TOO_LARGE,
        UNSUPPORTED_MEDIA_TYPE,
        INVALID_REQUEST,
        TOO_MANY_REQUESTS,
        INTERNAL_ERROR,
        UNAVAILABLE,
    )
}


class ProblemItem(BaseModel, frozen=True):
    """One rule that the request breaks, and where."""

    detail: str
    pointer: Annotated[str | None, Field(description="JSON Pointer (RFC 6901) into the body.")] = None
    parameter: Annotated[str | None, Field(description="Parameter of the path or the query.")] = None
    header: Annotated[str | None, Field(description="Request header.")] = None


class Problem(BaseModel):
    """A problem detail (RFC 9457)."""

    type: Annotated[str, Field(json_schema_extra={"format": "uri-reference"})]
    title: str
    status: Annotated[int, Field(ge=400, le=599)]
    detail: str
    instance: Annotated[str, Field(description="The request id, as in `X-Request-ID`.")]
    errors: list[ProblemItem] | None = None


class ProblemError(Exception):
    """Raised wherever a request is refused; `response` makes the answer of it."""

    def __init__(
        self,
        kind: ProblemType,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        errors: Iterable[ProblemItem] = (),
    ) -> None:
        super().__init__(kind.name)
        self.kind = kind
        self.detail = detail
        self.headers = headers
        self.errors = list(dict.fromkeys(errors))


def of_status(status: int) -> ProblemType:
    """A problem that is its HTTP status and nothing more (RFC 9457, section 4.2.1)."""
    known = status in {each.value for each in HTTPStatus}
    return ProblemType("", status, HTTPStatus(status).phrase if known else "Error", "")


def unavailable(detail: str) -> ProblemError:
    return ProblemError(UNAVAILABLE, detail, headers={"Retry-After": str(RETRY_SECONDS)})


def response(request_id: str, error: ProblemError) -> Response:
    kind = error.kind
    problem: dict[str, object] = {
        "type": f"/problems/{kind.name}" if kind.name else "about:blank",
        "title": kind.title,
        "status": kind.status,
        "detail": error.detail,
        "instance": request_id,
    }
    if error.errors:
        problem["errors"] = [each.model_dump(exclude_none=True) for each in error.errors]
    body = json.dumps(problem, ensure_ascii=False, separators=(",", ":")).encode()
    return Response(body, kind.status, error.headers, MEDIA_TYPE)


# From SQLSTATE to an answer: what is listed here will pass, anything else is a
# fault of ours. Classes: 08 connection, 28 authorization, 53 resources,
# 57 operator (57014 is the statement's deadline), 58 system.
_PASSING_CLASSES = {"08", "28", "53", "57", "58"}
_PASSING_STATES = NOT_MIGRATED | {
    READ_ONLY,  # a failover is under way
    "3D000",  # no such database
    "40001",  # serialization failure
    "40P01",  # deadlock
    "55P03",  # lock not available
}


def from_database(error: DBAPIError) -> ProblemError:
    """503 for what passes, 500 for what does not."""
    state = sqlstate(error)
    if state is None:
        passing = isinstance(error, OperationalError | InterfaceError)
    else:
        passing = state in _PASSING_STATES or state[:2] in _PASSING_CLASSES
    if passing:
        return unavailable("The database cannot serve this request now.")
    return internal_error()


def internal_error() -> ProblemError:
    return ProblemError(INTERNAL_ERROR, "Something went wrong that nobody foresaw.")
