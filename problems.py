"""RFC 9457 problem details: the types, the exception that carries one, and the response.

    ProblemError     ends the request with a problem

`response` builds every error response of the service. A `detail` is a fixed sentence
that never echoes any part of the request. Which exceptions and SQLSTATEs become
which problem is in `web/errors.py`.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated

from pydantic import BaseModel, Field
from starlette.responses import Response

MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = 2
"""`Retry-After` while the database or the keys are unavailable."""


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
    "Malformed request body",
    "The body is not valid JSON in UTF-8 (RFC 8259), or an object in it has a duplicate name. "
    "Fix the body before you retry.",
)
INVALID_CURSOR = ProblemType(
    "invalid-cursor",
    400,
    "Invalid cursor",
    "The value is not a cursor. Request the URL of the `Link` header unchanged, or start again "
    "without a cursor.",
)
UNKNOWN_CURSOR = ProblemType(
    "unknown-cursor",
    404,
    "Unknown cursor",
    "A cursor is valid only for the user and the filters that it was issued for. Request the "
    "URL of the `Link` header unchanged, or start again without a cursor.",
)
CORS_REFUSED = ProblemType(
    "cors-refused",
    400,
    "CORS preflight refused",
    "The origin, the method or a header of the cross-origin request is not allowed. Allowed "
    "origins are configured with CORS_ORIGINS.",
)
UNAUTHORIZED = ProblemType(
    "unauthorized",
    401,
    "Authentication required",
    "The request has no bearer token, or an invalid one; the WWW-Authenticate header says why. "
    "Get a new token from Better Auth (GET /api/auth/token) and send it as "
    "`Authorization: Bearer <token>`.",
)
INSUFFICIENT_SCOPE = ProblemType(
    "insufficient-scope",
    403,
    "Insufficient scope",
    "The token's `scope` claim does not allow this operation. Reading tasks requires `tasks:read`, "
    "changing them `tasks:write`, exporting the account `account:export`, and deleting it "
    "`account:delete`.",
)
NOT_FOUND = ProblemType(
    "not-found",
    404,
    "Not found",
    "The path does not exist, or you have no such task.",
)
CONFLICTING_PARAMETERS = ProblemType(
    "conflicting-parameters",
    409,
    "Conflicting parameters",
    "Each parameter is valid, but two of them contradict each other, such as a range that ends before "
    "it begins. Leave one of them out.",
)
TASK_EXISTS = ProblemType(
    "task-exists",
    409,
    "Task exists",
    "You have a task with this ID already. It has other content than you sent, or is deleted; the ETag "
    "header, or in a batch `task`, has its current version.",
)
IDEMPOTENCY_KEY_REUSED = ProblemType(
    "idempotency-key-reused",
    409,
    "Idempotency key reused",
    "An earlier request with this Idempotency-Key had another body. Use a new key for each request, and "
    "the same key only to send the same request again.",
)
INVALID_IDEMPOTENCY_KEY = ProblemType(
    "invalid-idempotency-key",
    400,
    "Invalid idempotency key",
    "Idempotency-Key takes 1 to 255 visible ASCII characters, such as a UUID, and can be sent once.",
)
QUOTA_REACHED = ProblemType(
    "quota-reached",
    409,
    "Quota reached",
    "A user can have a limited number of tasks (MAX_TASKS_PER_USER). Deleted tasks do not count: delete "
    "some, and send the request again.",
)
BATCH_FAILED = ProblemType(
    "batch-failed",
    409,
    "Batch failed",
    "An operation of an atomic batch failed, so none was applied. `errors` lists those that failed by "
    "themselves: `pointer` names the operation, and `type` says why.",
)
INVALID_PRECONDITION = ProblemType(
    "invalid-precondition",
    400,
    "Invalid precondition",
    "If-Match and If-None-Match take `*` or a list of entity tags, each in double quotes, as in the ETag "
    "header of a response.",
)
SYNC_EXPIRED = ProblemType(
    "sync-expired",
    410,
    "Synchronization expired",
    "What has changed since this position can no longer be told: tasks that were deleted since may be gone "
    "for good. Discard your copy, and request the changes from the beginning, without `since`.",
)
PRECONDITION_FAILED = ProblemType(
    "precondition-failed",
    412,
    "Precondition failed",
    "The task has changed since you read it. The ETag header, or in a batch `task`, has its current "
    "version. Read the task again, and decide whether your change still applies.",
)
PRECONDITION_REQUIRED = ProblemType(
    "precondition-required",
    428,
    "Precondition required",
    "This service does not change a task without the version that you have read. Send its entity tag in "
    "If-Match, or `*` to overwrite whatever it is; in a batch send `if_version`.",
)
METHOD_NOT_ALLOWED = ProblemType(
    "method-not-allowed",
    405,
    "Method not allowed",
    "The path does not support this method. The Allow header lists those that it does.",
)
REQUEST_TIMEOUT = ProblemType(
    "request-timeout",
    408,
    "Request timeout",
    "The request body did not arrive within 10 seconds. Send the request again.",
)
BODY_TOO_LARGE = ProblemType(
    "body-too-large",
    413,
    "Request body too large",
    "A request body may have at most 65,536 bytes, and that of a batch 262,144.",
)
UNSUPPORTED_MEDIA_TYPE = ProblemType(
    "unsupported-media-type",
    415,
    "Unsupported media type",
    "Send `application/json` in UTF-8 without a content coding; PATCH also accepts "
    "`application/merge-patch+json`. Set the Content-Type header accordingly.",
)
INVALID_REQUEST = ProblemType(
    "invalid-request",
    422,
    "Invalid request",
    "The request is well-formed, but some of its values are not valid. `errors` lists them: "
    "`pointer` is a JSON Pointer into the body, `parameter` a path or query parameter.",
)
TOO_MANY_REQUESTS = ProblemType(
    "too-many-requests",
    429,
    "Too many requests",
    "A rate limit was exceeded. Wait for the number of seconds in the Retry-After header.",
)
INTERNAL_ERROR = ProblemType(
    "internal-error",
    500,
    "Internal server error",
    "An unexpected error occurred. Report it with the request ID (`instance`), which is in the "
    "service's log.",
)
UNAVAILABLE = ProblemType(
    "unavailable",
    503,
    "Service unavailable",
    "The database, or the endpoint of the token verification keys, is unreachable or "
    "overloaded. Retry after the number of seconds in the Retry-After header.",
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
        UNKNOWN_CURSOR,
        TASK_EXISTS,
        IDEMPOTENCY_KEY_REUSED,
        INVALID_IDEMPOTENCY_KEY,
        CONFLICTING_PARAMETERS,
        QUOTA_REACHED,
        BATCH_FAILED,
        INVALID_PRECONDITION,
        SYNC_EXPIRED,
        PRECONDITION_FAILED,
        PRECONDITION_REQUIRED,
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
    """One error in the request, and where it is."""

    detail: str
    pointer: Annotated[str | None, Field(description="JSON Pointer (RFC 6901) into the body.")] = None
    parameter: Annotated[str | None, Field(description="Path or query parameter.")] = None
    header: Annotated[str | None, Field(description="Request header.")] = None
    type: Annotated[str | None, Field(description="The type of the problem of this operation alone.")] = None


class Problem(BaseModel):
    """A problem detail (RFC 9457)."""

    type: Annotated[str, Field(json_schema_extra={"format": "uri-reference"})]
    title: str
    status: Annotated[int, Field(ge=400, le=599)]
    detail: str
    instance: Annotated[str, Field(description="The request ID, as in `X-Request-ID`.")]
    errors: list[ProblemItem] | None = None


class ProblemError(Exception):
    """Raised wherever a request is refused; `web.errors` turns it into the response."""

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
    """A problem without a type of its own: `about:blank` (RFC 9457, section 4.2.1)."""
    known = status in {each.value for each in HTTPStatus}
    return ProblemType("", status, HTTPStatus(status).phrase if known else "Error", "")


def unavailable(detail: str) -> ProblemError:
    return ProblemError(UNAVAILABLE, detail, headers={"Retry-After": str(RETRY_SECONDS)})


def document(request_id: str, error: ProblemError) -> Mapping[str, object]:
    """The members of the problem."""
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
    return problem


def encoded(problem: Mapping[str, object]) -> bytes:
    return json.dumps(problem, ensure_ascii=False, separators=(",", ":")).encode()


def response(request_id: str, error: ProblemError) -> Response:
    body = encoded(document(request_id, error))
    return Response(body, error.kind.status, error.headers, MEDIA_TYPE)


def internal_error() -> ProblemError:
    return ProblemError(INTERNAL_ERROR, "Unexpected error. Report it with the request ID.")
