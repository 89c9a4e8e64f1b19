"""The OpenAPI document: extends what FastAPI generates from the routes.

Adds bodies, problems, headers, examples and links. `make openapi` writes the result to
`specs/openapi.json`.
"""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import models_json_schema

import problems
from problems import Problem, ProblemType
from schemas import Batch, TaskCreate, TaskRead, TaskReplace, TaskUpdate

VERSION = "0.1.0"

DESCRIPTION = """
Stores the tasks of your frontend's users. Each user sees only their own.

Every operation under `/api` requires a token from Better Auth's `jwt` plugin as
`Authorization: Bearer <token>`. Every error is a problem detail (RFC 9457) as
`application/problem+json`.
"""

Json = dict[str, object]

CONTACT: Json = {"name": "The Tasks API authors"}
LICENSE: Json = {"name": "MIT", "identifier": "MIT"}
# Resolved against the URL of the document: the origin that serves it.
SERVERS: list[Json] = [{"url": "/"}]
TAGS: list[Json] = [
    {"name": "tasks", "description": "The signed-in user's own tasks."},
    {"name": "account", "description": "Everything that is stored about the signed-in user."},
    {"name": "health", "description": "Liveness and readiness, for the platform."},
    {"name": "problems", "description": "Explanations of the problem types."},
]

BEARER: Json = {
    "type": "http",
    "description": "A token from Better Auth's `jwt` plugin: `GET /api/auth/token` on the frontend.",
    "scheme": "bearer",
    "bearerFormat": "JWT",
}

_EXAMPLE_BODY: Json = {
    "title": "Water the plants",
    "description": "The ones on the balcony too.",
    "priority": "high",
    "due_at": "2026-12-24T18:00:00+01:00",
    "tags": ["home"],
}
_EXAMPLES: dict[type, Json] = {
    TaskCreate: _EXAMPLE_BODY,
    TaskReplace: _EXAMPLE_BODY | {"completed": True},
    TaskUpdate: {"completed": True, "due_at": None},
    # A column without an example is null.
    TaskRead: dict.fromkeys(TypeAdapter(TaskRead).json_schema(mode="serialization")["properties"])
    | {
        "id": "019ab2f0-5b7e-7cc3-98c4-dc0c0c07398f",
        "user_id": "Zk4WqGvHqJ8sT2yXbN5r",
        "title": "Water the plants",
        "description": "The ones on the balcony too.",
        "completed": False,
        "priority": "high",
        "due_at": "2026-12-24T17:00:00Z",
        "tags": ["home"],
        "version": 1,
        "created_at": "2026-11-22T09:30:00.123456Z",
        "updated_at": "2026-11-22T09:30:00.123456Z",
    },
}

_HEADERS: dict[str, str] = {
    "X-Request-ID": "Identifies this request in the service's log.",
    "WWW-Authenticate": "Why the token was refused (RFC 6750).",
    "Retry-After": "Seconds to wait before retrying.",
    "RateLimit-Policy": 'The exhausted limit, such as `"requests";q=600;w=60`.',
    "RateLimit": 'The remaining quota and the seconds until it resets, such as `"requests";r=0;t=17`.',
    "Location": "Path of the new task.",
    "Content-Disposition": "A name for the file.",
    "ETag": "Identifies this state of the task, for If-Match and If-None-Match.",
    "Idempotency-Key": "Makes the request safe to repeat, for 24 hours: a new value for each request.",
    "Idempotency-Replayed": "`true` if an earlier request with the same key has done this.",
    "If-Match": "Entity tags: the task is changed only if one of them is its own. `*` is any.",
    "If-None-Match": "Entity tags of responses that you have: 304 if one of them is still current.",
    "Server-Timing": "Milliseconds spent on the statement and waiting for a connection.",
    "Tasks-Position": "How far a client must have followed the changes to have seen this one.",
    "Link": 'The next page, when there is one: `<…>; rel="next"`.',
}
_HEADERS_OF_STATUS: dict[int, tuple[str, ...]] = {
    401: ("WWW-Authenticate",),
    412: ("ETag",),
    403: ("WWW-Authenticate",),
    429: ("Retry-After", "RateLimit-Policy", "RateLimit"),
    503: ("Retry-After",),
}

COMMON_PROBLEMS = (
    problems.UNAUTHORIZED,
    problems.INSUFFICIENT_SCOPE,
    problems.INVALID_REQUEST,
    problems.TOO_MANY_REQUESTS,
    problems.INTERNAL_ERROR,
    problems.UNAVAILABLE,
)
BODY_PROBLEMS = (
    problems.MALFORMED_BODY,
    problems.REQUEST_TIMEOUT,
    problems.BODY_TOO_LARGE,
    problems.UNSUPPORTED_MEDIA_TYPE,
)
ID_PROBLEMS = (problems.NOT_FOUND,)
CHANGE_PROBLEMS = (problems.NOT_FOUND, problems.PRECONDITION_FAILED, problems.PRECONDITION_REQUIRED)


HEADERS_TOO_LARGE: Json = {
    "description": "The header fields are too large. The HTTP server itself sends this response.",
    "content": {"text/plain": {"schema": {"type": "string"}}},
}


def problem(kind: ProblemType, extra: Json | None = None) -> Json:
    """The declaration of a response with this problem, and perhaps more headers."""
    example = {
        "type": f"/problems/{kind.name}",
        "title": kind.title,
        "status": kind.status,
        "detail": kind.explanation,
        "instance": "0f3c1b7e2a9d4c55",
    }
    return {
        "description": kind.title,
        "headers": headers("X-Request-ID", *_HEADERS_OF_STATUS.get(kind.status, ())) | (extra or {}),
        "content": {
            problems.MEDIA_TYPE: {
                "schema": {"$ref": "#/components/schemas/Problem"},
                "example": example,
            }
        },
    }


def problems_of(*kinds: ProblemType) -> dict[int | str, Json]:
    """The declarations of responses with these problems."""
    return {kind.status: problem(kind) for kind in kinds}


def headers(*names: str, required: bool = True) -> Json:
    return {
        name: {"description": _HEADERS[name], "required": required, "schema": {"type": "string"}}
        for name in names
    }


def success(description: str, extra: Json | None = None) -> Json:
    """The declaration of a successful response; FastAPI adds the schema."""
    return {
        "description": description,
        "headers": headers("X-Request-ID") | headers("Server-Timing", required=False) | (extra or {}),
    }


def no_content(description: str, *names: str) -> Json:
    """The declaration of a 204, with these headers."""
    return {"description": description, "headers": headers("X-Request-ID", *names)}


def lines(description: str) -> Json:
    """The declaration of a response in newline-delimited JSON."""
    content = {"application/x-ndjson": {"schema": {"type": "string"}}}
    return success(description, headers("Content-Disposition")) | {"content": content}


def not_modified(description: str) -> Json:
    """The declaration of a 304, which has no body."""
    return success(description, headers("ETag"))


def header(name: str, *, pattern: str | None = None) -> Json:
    """The declaration of a request header that a dependency reads, unknown to FastAPI.

    Tools know the values of If-Match from its name, and only if it has no pattern.
    """
    schema: Json = {"type": "string"} if pattern is None else {"type": "string", "pattern": pattern}
    return {"name": name, "in": "header", "required": False, "description": _HEADERS[name], "schema": schema}


def parameters(model: type[BaseModel]) -> dict[str, list[Json]]:
    """The declaration of the query that `parameters.query_parameters` reads, unknown to FastAPI."""
    properties = model.model_json_schema()["properties"]
    return {"parameters": [_parameter(name, schema) for name, schema in properties.items()]}


def _parameter(name: str, schema: Json) -> Json:
    """One query parameter; its schema describes the value if present, because it cannot be null."""
    description, explode = schema.pop("description"), schema.pop("explode", None)
    alternatives = schema.pop("anyOf", [])
    assert isinstance(alternatives, list)
    for alternative in alternatives:
        if alternative != {"type": "null"}:
            schema |= alternative
    if schema.get("default", ...) is None:
        del schema["default"]
    schema.pop("title", None)
    style: Json = {} if explode is None else {"style": "form", "explode": explode}
    declared: Json = {"name": name, "in": "query", "required": False, "description": description}
    return {**declared, **style, "schema": schema}


def repeatable(parameter: Json) -> bool:
    """Whether a query parameter is an array that takes one value at a time."""
    schema = parameter["schema"]
    assert isinstance(schema, dict)
    return schema.get("type") == "array" and parameter.get("explode") is not False


def request_body(model: type[BaseModel], *media_types: str) -> Json:
    """The declaration of a body that `json_bodies.json_body` reads, unknown to FastAPI."""
    content = {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}
    return {"requestBody": {"required": True, "content": dict.fromkeys(media_types, content)}}


def operation_id(route: APIRoute) -> str:
    """The function's name; generated clients name their methods after it."""
    return route.name


def document(app: FastAPI) -> Json:
    """The whole OpenAPI 3.1 document."""
    result = get_openapi(
        title=app.title,
        version=app.version,
        openapi_version="3.1.0",
        summary=app.summary,
        description=app.description,
        contact=CONTACT,
        license_info=LICENSE,
        servers=SERVERS,
        tags=TAGS,
        routes=app.routes,
    )
    models: list[type[BaseModel]] = [Batch, TaskCreate, TaskReplace, TaskUpdate, Problem]
    _, definitions = models_json_schema(
        [(model, "validation") for model in models], ref_template="#/components/schemas/{model}"
    )
    schemas = result["components"]["schemas"] | definitions["$defs"]
    result["components"]["schemas"] = dict(sorted(schemas.items()))
    _declare_security(result)
    _remove_fastapi_422(result)
    _add_examples(result)
    _link_new_task(result)
    return result


def _declare_security(result: dict[str, Any]) -> None:
    """Declare the bearer scheme for operations that can return 401, and no security for the rest.

    FastAPI would declare it for a security dependency, at a cost of 12 µs per request.
    """
    result["components"]["securitySchemes"] = {"bearer": BEARER}
    for operations in result["paths"].values():
        for operation in operations.values():
            operation["security"] = [{"bearer": []}] if "401" in operation["responses"] else []


def _remove_fastapi_422(result: dict[str, Any]) -> None:
    """FastAPI declares its own error body for every parameter, which this service never sends."""
    for operations in result["paths"].values():
        for operation in operations.values():
            if "HTTPValidationError" in str(operation["responses"].get("422")):
                del operation["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        result["components"]["schemas"].pop(name, None)


def _add_examples(result: dict[str, Any]) -> None:
    """Added last, because FastAPI drops null members from the document that it generates."""
    for model, example in _EXAMPLES.items():
        result["components"]["schemas"][model.__name__]["examples"] = [example]


def _link_new_task(result: dict[str, Any]) -> None:
    """Links from the response with a new task to every operation on one task."""
    operations = (
        operation["operationId"]
        for path, item in result["paths"].items()
        if path.startswith("/api/tasks/{task_id}")
        for operation in item.values()
    )
    result["paths"]["/api/tasks"]["post"]["responses"]["201"]["links"] = {
        name: {"operationId": name, "parameters": {"task_id": "$response.body#/id"}} for name in operations
    }
