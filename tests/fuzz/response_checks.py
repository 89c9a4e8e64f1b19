"""Checks of headers, problem details and timestamps, and of data that must not leak.

Source: specs/api/rest-endpoints.md, section 5. The schema of a problem detail is
taken from the committed contract.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import jsonschema_rs
from requests import PreparedRequest
from schemathesis import Case, Response

from tests.environment import ROOT
from tests.support import ORIGIN
from tests.wording import check_wording

INVALID_TOKEN = re.compile(r'Bearer error="invalid_token", error_description="([A-Za-z ]+)"')
_INSUFFICIENT = re.compile(
    r'Bearer error="insufficient_scope", .*scope="(tasks:(read|write)|account:(delete|export))"'
)
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
_NOT_EMPTY = re.compile(r".+", re.DOTALL)
_NUMBER = re.compile(r"\d+")

_ALL_RESPONSES: Mapping[str, re.Pattern[str]] = {
    "x-request-id": re.compile(r"[A-Za-z0-9._-]{1,128}"),
    "x-content-type-options": re.compile("nosniff"),
    "x-frame-options": re.compile("DENY"),
    "referrer-policy": re.compile("no-referrer"),
    "strict-transport-security": re.compile("max-age=63072000; includeSubDomains"),
    "permissions-policy": re.compile(
        "accelerometer=\\(\\), camera=\\(\\), geolocation=\\(\\), gyroscope=\\(\\), microphone=\\(\\), "
        "payment=\\(\\), usb=\\(\\)"
    ),
    "content-security-policy": re.compile("default-src 'none'; frame-ancestors 'none'"),
}
_DOCS_PAGE = {
    "content-security-policy": re.compile(
        r"(?=.*default-src 'none')(?=.*frame-ancestors 'none')(?!.*(unsafe|\*|https?:)).*'self'.*"
    )
}
_CORS_RESPONSES: Mapping[str, re.Pattern[str]] = {
    "access-control-allow-credentials": re.compile("true"),
    "access-control-expose-headers": re.compile(
        "Allow, ETag, Idempotency-Replayed, Link, Location, RateLimit, RateLimit-Policy, Retry-After, "
        "Server-Timing, Tasks-Position, "
        "WWW-Authenticate, X-Request-ID"
    ),
}
_ACCOUNT_PATH = re.compile(r"/api/account(/export)?(\?.*)?")
_SYNC_PATH = re.compile(r"/api/tasks/(changes|batch)(\?.*)?")
_BATCH_PATH = re.compile(r"/api/tasks/batch(\?.*)?")
_TASK_PATH = re.compile(r"/api/tasks(/[^/?]+(/restore)?)?(\?.*)?")
_PREFLIGHT_HEADERS = {f"access-control-{name}" for name in ("allow-methods", "allow-headers", "max-age")}
_TASK_RESPONSES = {"cache-control": re.compile("private, no-cache"), "vary": re.compile(r".*Authorization.*")}
_EXPORT = {"content-disposition": re.compile('attachment; filename="tasks.ndjson"')}
_ASSETS = {"cache-control": re.compile("public, max-age=31536000, immutable")}
_ASSET_PATH = re.compile("/docs/assets/.+")
_OTHER_RESPONSES = {"cache-control": re.compile("no-store")}
_ETAG = re.compile(r'"\d+-[A-Za-z0-9_-]{8}"')
_BY_STATUS: Mapping[int, Mapping[str, re.Pattern[str]]] = {
    201: {"location": re.compile(r"/api/tasks/[0-9a-f-]{36}")},
    401: {"www-authenticate": re.compile(rf"Bearer|{INVALID_TOKEN.pattern}")},
    403: {"www-authenticate": _INSUFFICIENT},
    405: {"allow": re.compile(r"[A-Z]+(, [A-Z]+)*")},
    412: {"etag": _ETAG},
    429: {"retry-after": _NUMBER, "ratelimit": _NOT_EMPTY, "ratelimit-policy": _NOT_EMPTY},
    503: {"retry-after": re.compile("2")},
}
# Added by the server.
_SERVER_HEADERS = {"connection", "content-length", "content-type", "date", "server", "transfer-encoding"}
_OPTIONAL = {"link", "server-timing", "vary", "idempotency-replayed"}
_WITH_ERRORS = {"invalid-request", "conflicting-parameters", "batch-failed"}
_PERHAPS_WITH_ERRORS = "precondition-required"
_OPTIONAL_OF_STATUS = {200: {"location"}, 409: {"etag"}}
_PROBLEMS: Mapping[str, int] = {
    "malformed-body": 400,
    "invalid-cursor": 400,
    "cors-refused": 400,
    "unauthorized": 401,
    "insufficient-scope": 403,
    "not-found": 404,
    "unknown-cursor": 404,
    "method-not-allowed": 405,
    "request-timeout": 408,
    "body-too-large": 413,
    "unsupported-media-type": 415,
    "conflicting-parameters": 409,
    "quota-reached": 409,
    "task-exists": 409,
    "batch-failed": 409,
    "idempotency-key-reused": 409,
    "sync-expired": 410,
    "invalid-idempotency-key": 400,
    "invalid-precondition": 400,
    "precondition-failed": 412,
    "precondition-required": 428,
    "invalid-request": 422,
    "too-many-requests": 429,
    "internal-error": 500,
    "unavailable": 503,
}
_LOCATIONS = {"pointer", "parameter", "header"}
_CONTRACT = json.loads((ROOT / "specs/openapi.json").read_text())
_PROBLEM = jsonschema_rs.validator_for(
    {**_CONTRACT["components"]["schemas"]["Problem"], "components": _CONTRACT["components"]}
)
_INTERNALS = re.compile(
    r"Traceback \(most|File \\?\"/|psycopg2|sqlalchemy|pydantic_core|violates|SQLSTATE|relation "
    r"|(SELECT|INSERT INTO|UPDATE|DELETE FROM) .*tasks",
    re.IGNORECASE,
)
_CONTRACT_TEXT = json.dumps(_CONTRACT, ensure_ascii=False)
MIN_ECHO_LENGTH = 8
"""Characters. Shorter values appear in responses by chance."""


def link_target(link: str) -> str:
    """The URL of a Link header."""
    return link[1:].partition(">")[0]


def accepts_query(case: Case[Any], request: PreparedRequest) -> bool:
    """Whether every query parameter is declared, and none is repeated but those that are arrays."""
    operation = _CONTRACT["paths"][case.operation.path][case.operation.method.lower()]
    known = {each["name"]: each for each in operation.get("parameters", []) if each["in"] == "query"}
    repeatable = {
        name
        for name, each in known.items()
        if each["schema"].get("type") == "array" and each.get("explode", True)
    }
    given = parse_qs(urlsplit(request.url or "").query, keep_blank_values=True)
    return given.keys() <= known.keys() and all(
        len(values) == 1 or name in repeatable for name, values in given.items()
    )


def check_headers(response: Response, *, allowed_origin: str | None = ORIGIN) -> Iterator[str]:
    """Whether the headers are those that the status and the path require, and no others.

    `allowed_origin` is the request's `Origin`, or None if CORS does not allow it.
    """
    is_preflight = response.request.method == "OPTIONS" and response.status_code in {204, 400}
    expected = {
        **_ALL_RESPONSES,
        **(_cors_headers(allowed_origin) if allowed_origin else {}),
        **(_OTHER_RESPONSES if is_preflight else _headers_of(response)),
        **_BY_STATUS.get(response.status_code, {}),
    }
    for name, pattern in expected.items():
        value = ", ".join(response.headers.get(name, []))
        if not pattern.fullmatch(value):
            yield f"the header {name} of a {response.status_code} is {value!r}"
    optional = _OPTIONAL | _OPTIONAL_OF_STATUS.get(response.status_code, set())
    optional |= _PREFLIGHT_HEADERS if is_preflight else set()
    if _BATCH_PATH.fullmatch(response.request.path_url) and response.status_code == 200:
        optional |= {"tasks-position"}
    for name in response.headers.keys() - expected.keys() - _SERVER_HEADERS - optional:
        yield f"the specification does not list the header {name}"
    if "Origin" not in ", ".join(response.headers.get("vary", [])):
        yield "the answer does not vary by Origin"


def _headers_of(response: Response) -> Mapping[str, re.Pattern[str]]:
    """The headers that depend on the path."""
    path = response.request.path_url
    if _SYNC_PATH.fullmatch(path):
        return _TASK_RESPONSES
    if _TASK_PATH.fullmatch(path):
        tagged = response.status_code in {200, 201, 304}
        changes = response.status_code < 300 and response.request.method not in {"GET", "HEAD"}
        return {
            **_TASK_RESPONSES,
            **({"etag": _ETAG} if tagged else {}),
            **({"tasks-position": _NUMBER} if changes else {}),
        }
    if _ACCOUNT_PATH.fullmatch(path):
        return {**_TASK_RESPONSES, **(_EXPORT if response.status_code == 200 else {})}
    if response.status_code == 200 and _ASSET_PATH.fullmatch(path):
        return _ASSETS
    return {**_OTHER_RESPONSES, **(_DOCS_PAGE if path == "/docs" and response.status_code == 200 else {})}


def _cors_headers(origin: str) -> Mapping[str, re.Pattern[str]]:
    return {**_CORS_RESPONSES, "access-control-allow-origin": re.compile(re.escape(origin))}


def check_problem(response: Response) -> Iterator[str]:
    if response.status_code < 400 or response.request.method == "HEAD":
        return
    kind = response.headers.get("content-type")
    if kind != ["application/problem+json"]:
        yield f"a {response.status_code} is {kind}"
        return
    problem = response.json()
    yield from (error.message for error in _PROBLEM.iter_errors(problem))
    kind_of_problem = str(problem.get("type")).removeprefix("/problems/")
    status = _PROBLEMS.get(kind_of_problem)
    if not status == problem.get("status") == response.status_code:
        yield f"a {response.status_code} has the type and status of another problem"
    challenge = INVALID_TOKEN.fullmatch("".join(response.headers.get("www-authenticate", [])))
    if challenge and problem["detail"] != f"{challenge[1]}.":
        yield "the challenge and the problem have different reasons"
    if [problem.get("instance")] != response.headers.get("x-request-id"):
        yield "the problem does not name its request"
    if ("errors" in problem) != (kind_of_problem in _WITH_ERRORS) and kind_of_problem != _PERHAPS_WITH_ERRORS:
        yield "errors belong to what is invalid, contradicts or fails in a batch, and only to that"
    errors = [*map(json.dumps, problem.get("errors", ()))]
    if len(set(errors)) < len(errors):
        yield "an error is listed twice"
    own = {"detail", "type"} if kind_of_problem == "batch-failed" else {"detail"}
    if not all(
        each.keys() - _LOCATIONS == own and len(each) == len(own) + 1 for each in problem.get("errors", ())
    ):
        yield "an error does not have exactly a detail and a location"
    yield from check_wording(problem)


def check_timestamps(response: Response) -> Iterator[str]:
    if response.status_code < 300 and response.content and response.request.path_url.startswith("/api/tasks"):
        for name, value in _times(response.json()):
            if value is not None and not _TIMESTAMP.fullmatch(value):
                yield f"{name} is {value!r}, which is not RFC 3339 in UTC"


def _times(document: Any) -> Iterator[tuple[str, Any]]:
    """The members of all objects in a JSON document that are times."""
    if isinstance(document, list):
        for each in document:
            yield from _times(each)
    elif isinstance(document, dict):
        for name, value in document.items():
            yield from [(name, value)] if name.endswith("_at") else _times(value)


def leaks(response: Response, secrets: Iterable[str]) -> Iterator[str]:
    """Secrets in any response, and internals or request values in error responses."""
    body = response.content.decode(errors="replace")
    text = f"{response.headers}\n{body}"
    if any(secret in text for secret in secrets):
        yield "the answer holds a secret"
    if response.status_code >= 400:
        if _INTERNALS.search(text):
            yield "the error reveals internals"
        if _echoes(response.request, body):
            yield "the error repeats a value of the request"


def log_leaks(request: PreparedRequest, log: str, secrets: Iterable[str]) -> Iterator[str]:
    if any(secret in log for secret in secrets):
        yield "the log holds a secret"
    if any(_echoes(request, line) for line in log.splitlines()):
        yield "the log repeats a value of the request"


def _echoes(request: PreparedRequest, document: str) -> bool:
    """Whether the JSON document contains a value of the request."""
    url = urlsplit(request.url or "")
    body = request.body.decode(errors="replace") if isinstance(request.body, bytes) else request.body or ""
    sent = {*_strings(parse_qs(url.query)), *_strings(_parse_json(body)), *unquote(url.path).split("/"), body}
    response_text = "\n".join(_strings(_parse_json(document)))
    return any(
        len(text) >= MIN_ECHO_LENGTH and text not in _CONTRACT_TEXT and text in response_text
        for text in map(str.strip, sent)
    )


def _strings(document: Any) -> Iterator[str]:
    """All strings in a JSON document, member names included."""
    if isinstance(document, str):
        yield document
    elif isinstance(document, list):
        for each in document:
            yield from _strings(each)
    elif isinstance(document, dict):
        for name, value in document.items():
            yield from _strings(name)
            yield from _strings(value)


def _parse_json(text: str | bytes | None) -> object:
    try:
        return json.loads(text or b"null")
    except (ValueError, RecursionError):
        return None
