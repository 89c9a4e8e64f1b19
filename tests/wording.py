"""The wording of every problem. People read it, so that a change should be deliberate.

Tests and the contract fuzz compare each problem that they get with these tables.
"""

from collections.abc import Iterator, Mapping
from typing import Any

TITLES: Mapping[str, str] = {
    "malformed-body": "Malformed request body",
    "invalid-cursor": "Invalid cursor",
    "cors-refused": "CORS preflight refused",
    "unauthorized": "Authentication required",
    "insufficient-scope": "Insufficient scope",
    "not-found": "Not found",
    "unknown-cursor": "Unknown cursor",
    "conflicting-parameters": "Conflicting parameters",
    "quota-reached": "Quota reached",
    "batch-failed": "Batch failed",
    "task-exists": "Task exists",
    "idempotency-key-reused": "Idempotency key reused",
    "invalid-idempotency-key": "Invalid idempotency key",
    "invalid-precondition": "Invalid precondition",
    "sync-expired": "Synchronization expired",
    "precondition-failed": "Precondition failed",
    "precondition-required": "Precondition required",
    "method-not-allowed": "Method not allowed",
    "request-timeout": "Request timeout",
    "body-too-large": "Request body too large",
    "unsupported-media-type": "Unsupported media type",
    "invalid-request": "Invalid request",
    "too-many-requests": "Too many requests",
    "internal-error": "Internal server error",
    "unavailable": "Service unavailable",
}

REASONS = (
    "A required claim is missing",
    "The algorithm is not accepted",
    "The expiry is not a number",
    "The expiry is out of range",
    "The issuer is not accepted",
    "The scope is not a string",
    "The signature is invalid",
    "The signing key is unknown",
    "The subject is invalid",
    "The token has expired",
    "The token is for another audience",
    "The token is malformed",
    "The token is not valid yet",
    "There is more than one Authorization header",
)
"""Why a token is rejected, as in the header WWW-Authenticate."""

DETAILS: Mapping[str, tuple[str, ...]] = {
    "malformed-body": ("The body is not valid JSON in UTF-8 with unique names.",),
    "invalid-cursor": ("The value is not a cursor.",),
    "cors-refused": ("This preflight is not allowed.",),
    "unauthorized": ("The request has no bearer token.", *(f"{reason}." for reason in REASONS)),
    "insufficient-scope": tuple(
        f"This operation requires the scope {scope}."
        for scope in ("tasks:read", "tasks:write", "account:delete", "account:export")
    ),
    "not-found": (
        "There is nothing at this path.",
        "There is no asset with this name.",
        "There is no problem type with this name.",
        "You have no such task.",
    ),
    "unknown-cursor": ("The cursor does not belong to this list.",),
    "conflicting-parameters": ("Two parameters contradict each other; see errors.",),
    "task-exists": ("You have another task with this ID.",),
    "idempotency-key-reused": ("An earlier request with this key had another body.",),
    "invalid-idempotency-key": ("Idempotency-Key must be 1 to 255 visible ASCII characters, sent once.",),
    "quota-reached": ("You have reached the maximum number of tasks. Delete some of them first.",),
    "invalid-precondition": tuple(
        f"{header} must be * or a list of quoted entity tags." for header in ("If-Match", "If-None-Match")
    ),
    "sync-expired": ("The changes since this position are no longer known. Begin without since.",),
    "precondition-failed": (
        "If-Match does not name the current version of the task.",
        "if_version is not the current version of the task.",
    ),
    "precondition-required": (
        "Send If-Match with the entity tag of the task.",
        "Send if_version with each update, delete and restore; see errors.",
    ),
    "batch-failed": ("Nothing was changed; see errors.",),
    "method-not-allowed": ("See the Allow header.",),
    "request-timeout": ("The body did not arrive in time.",),
    "body-too-large": ("The body has more than 65,536 bytes.", "The body has more than 262,144 bytes."),
    "unsupported-media-type": tuple(
        f"Send {names} in UTF-8 without a content coding."
        for names in ("application/json", "application/json or application/merge-patch+json")
    ),
    "invalid-request": ("A parameter is not valid; see errors.", "The body is not valid; see errors."),
    "too-many-requests": (
        "The rate limit was exceeded.",
        "20 of your requests for lists are in progress. Wait until one has ended.",
        "10 of your requests for waits are in progress. Wait until one has ended.",
        "4 of your requests for batches are in progress. Wait until one has ended.",
    ),
    "internal-error": ("Unexpected error. Report it with the request ID.",),
    "unavailable": (
        "All database connections are busy.",
        "Too many requests are waiting for changes. Ask without wait.",
        "All database threads are stuck. Restart this process.",
        "The database cannot serve this request now.",
        "The database did not answer in time.",
        "The database does not answer.",
        "Row security is not active.",
        "The database is overloaded.",
        "The keys that verify tokens cannot be reached.",
        "The schema is not migrated.",
    ),
}

ITEMS = (
    "Field required.",
    (
        "Input should be 'created', '-created', 'due', '-due', 'priority', '-priority', 'updated' or"
        " '-updated'."
    ),
    "Input should be 'none' or 'any'.",
    "Input should be later than the beginning of the range.",
    "Input should have 1 to 5 words.",
    "Tasks without a due date are in no range.",
    "The trash cannot be filtered.",
    "The trash is sorted by updated or -updated.",
    "Input should be at most 20 tags.",
    "Input should be 'low', 'medium' or 'high'.",
    "Input should be a UUID in its canonical form.",
    "Input should be a valid boolean.",
    "Input should be a valid list.",
    "Input should be a valid string.",
    "Input should be a whole number.",
    "Input should be a position of an earlier response.",
    (
        "Input should be an RFC 3339 date-time with an offset, in the years 1970–9999, "
        "with up to 9 fractional digits and without a leap second."
    ),
    "Input should be an existing date, up to year 9999 in UTC.",
    "Input should be an object.",
    "Input should be greater than or equal to 1.",
    "Input should be less than or equal to 200.",
    "Input should be no earlier than 1970 in UTC.",
    "Input should be true or false.",
    "List should have at most 20 items.",
    "String should have at least 1 character.",
    "String should have at most 50 characters.",
    "String should have at most 200 characters.",
    "String should have at most 5000 characters.",
    "Tags should be unique.",
    "Text must not contain U+0000.",
    "The parameter is given more than once.",
    "Unknown field. Known fields: title, description, completed, priority, due_at, tags.",
    "Unknown field. Known fields: title, description, completed, priority, due_at, tags, id.",
    "Unknown query parameter. Known parameters: since, limit, wait.",
    "Input should be less than or equal to 25.",
    (
        "Unknown query parameter. Known parameters: completed, priority, tag, any_tag, due, due_from,"
        " due_before, created_from, created_before, updated_from, updated_before, q, deleted, sort,"
        " limit, cursor."
    ),
    "Unknown query parameter. This operation takes none.",
    "The query is not UTF-8.",
    "op should be one of create, update, delete, restore.",
    "An earlier operation has the same ID.",
    "Send if_version.",
    "Input should be less than or equal to 2147483647.",
    "Input should be a valid integer.",
    "List should have at least 1 item.",
    "List should have at most 100 items.",
    "Unknown field. Known fields: atomic, operations.",
    "Unknown field. Known fields: op, id, task.",
    "Unknown field. Known fields: id, if_version, op, task.",
    "Unknown field. Known fields: id, if_version, op.",
    "You have no such task.",
    "You have another task with this ID.",
    "You have reached the maximum number of tasks. Delete some of them first.",
    "if_version is not the current version of the task.",
)
"""The details of the errors of a 422."""


def check_wording(problem: Mapping[str, Any]) -> Iterator[str]:
    """What a user reads and is not in the tables; a problem of type `about:blank` has no wording."""
    kind = problem["type"].removeprefix("/problems/")
    if kind not in TITLES:
        return
    if problem["title"] != TITLES[kind]:
        yield f"the title of {kind} is {problem['title']!r}"
    if problem["detail"] not in DETAILS[kind]:
        yield f"the detail of {kind} is {problem['detail']!r}"
    for each in problem.get("errors", ()):
        if each["detail"] not in ITEMS:
            yield f"the detail of an error is {each['detail']!r}"
