"""Probes of the values in a body: candidates that follow from the contract, judged by it.

Whether a value is valid is decided by the schema of its property in the contract. What a
schema cannot express (a year after conversion to UTC, a day that does not exist) is
listed here.
"""

import itertools
import json
import re
import uuid
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import jsonschema_rs
from httpx2 import Response

from tests.environment import ROOT
from tests.fuzz import expected_effects
from tests.fuzz.prober import Prober, probe
from tests.operations import OPERATIONS, Operation
from tests.support import TASKS

_CONTRACT = json.loads((ROOT / "specs/openapi.json").read_text())
_BODIES = {
    each["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]: (path, method)
    for path, methods in _CONTRACT["paths"].items()
    for method, each in methods.items()
    if "requestBody" in each and not path.endswith("/batch")
}
MEDIA_TYPES = {
    name: tuple(_CONTRACT["paths"][path][method]["requestBody"]["content"])
    for name, (path, method) in _BODIES.items()
}
SCHEMAS = {name: _CONTRACT["components"]["schemas"][name] for name in _BODIES}
READ_ONLY = tuple(
    name
    for name in _CONTRACT["components"]["schemas"]["TaskRead"]["properties"]
    if name not in SCHEMAS["TaskReplace"]["properties"]
)
CANONICAL = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
IDS = (
    *(str(uuid.uuid5(uuid.NAMESPACE_URL, name)) for name in "ab"),
    str(uuid.uuid5(uuid.NAMESPACE_URL, "c")).upper(),
    str(uuid.UUID(int=1)), str(uuid.UUID(int=2**128 - 1)),
    "0" * 32, "{" + str(uuid.UUID(int=3)) + "}", f"urn:uuid:{uuid.UUID(int=4)}", f"{uuid.UUID(int=5)}\n",
    f" {uuid.UUID(int=6)}", "g" * 8 + str(uuid.UUID(int=7))[8:],
)  # fmt: skip
OF_EVERY_TYPE: tuple[object, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    1.5,
    "",
    "x",
    "true",
    "null",
    [],
    ["x"],
    {},
    {"a": 1},
)
CHARACTERS = ("x", "ü", "😀", "\u0301", "\u202e")
TITLES = (
    *(f"{space}x{space}" for space in expected_effects.WHITE_SPACE),
    " " * 500 + "x" * 200 + "\u3000" * 500, "x" * 200, "x" * 201, "  ", "\u2003", "\u200b", "\ufeff", "a\0b",
    "x\ny", "😀" * 200, "😀" * 201,
)  # fmt: skip
DATES = (
    "1970-01-01T00:00:00Z", "1969-12-31T23:59:59Z", "9999-12-31T23:59:59.999999999Z",
    "2030-05-17T08:00:00.123456789+02:00",
    "2030-05-17t08:00:00z", "2030-05-17T08:00:00-00:00", "2030-05-17T08:00:00+23:59",
    "2030-05-17T23:59:59.9999999Z",
    "2030-05-17T08:00:00.1234567890Z", "2030-05-17T08:00:00", "2030-05-17", "2030-05-17 08:00:00Z",
    "2030-05-17T08:00Z",
    "2030-05-17T24:00:00Z", "2030-05-17T08:60:00Z", "2030-06-30T23:59:60Z", "2030-05-17T08:00:00+24:00",
    "2030-05-17T08:00:00+0200", "2030-05-17T08:00:00.Z", "2030-5-17T08:00:00Z", "2030-13-01T08:00:00Z",
    "2030-00-01T08:00:00Z", "2030-05-00T08:00:00Z", "2028-02-29T00:00:00Z", "20300-05-17T08:00:00Z",
    " 2030-05-17T08:00:00Z",
    "2030-05-17T08:00:00Z ", "２０３０-05-17T08:00:00Z", "1893456000", 1893456000, 1893456000.5, "now",
    "infinity",
)  # fmt: skip
"""Judged by the pattern of the contract."""
IMPOSSIBLE_DATES = (
    "2030-02-29T00:00:00Z", "2030-02-30T00:00:00Z", "2030-04-31T00:00:00Z",
    "9999-12-31T23:59:59-00:01", "1970-01-01T00:00:00+00:01",
)  # fmt: skip
"""Match the pattern, but name no day, or a year out of range in UTC."""

Fields = dict[str, Any]


def candidates(name: str, schema: Fields) -> Iterator[object]:
    """Values of every type and at each limit of the property's schema."""
    yield from OF_EVERY_TYPE
    for each in schema.get("anyOf", [schema]):
        if "maxLength" in each:
            yield from _texts(each)
        if "enum" in each:
            for value in each["enum"]:
                yield from (value, value.upper(), f"{value} ", [value])
        if each.get("type") == "array":
            yield from _arrays(each)
    yield from {"title": TITLES, "due_at": DATES, "id": IDS}.get(name, ())


def _texts(schema: Fields) -> Iterator[str]:
    longest = schema["maxLength"]
    for length, character in itertools.product((longest - 1, longest, longest + 1), CHARACTERS):
        yield character * length
    yield from (
        "  kept  \n",
        "\0",
        "a\0",
        "\t",
        "\u2028",
        "e\u0301",
        "é",
        "İ",
        "</script>",
        "%s",
        "'; --",
        "\\",
        "NULL",
    )


def _arrays(schema: Fields) -> Iterator[object]:
    longest = schema["maxItems"]
    for length in (longest - 1, longest, longest + 1):
        yield [f"item {number}" for number in range(length)]
    for item in (*OF_EVERY_TYPE, *_texts(schema["items"])):
        yield [item]
    yield from (
        ["a", "a"],
        ["a", "A"],
        ["é", "e\u0301"],
        ["b", "a"],
        ["a,b", "{}", '"', "NULL"],
        [["a"]],
        "a,b",
    )


def _is_valid(name: str, schema: Fields, value: object) -> bool:
    impossible = name == "due_at" and value in IMPOSSIBLE_DATES
    if name == "id":  # The validator does not check the format.
        return isinstance(value, str) and bool(CANONICAL.fullmatch(value))
    return not impossible and jsonschema_rs.validator_for(schema).is_valid(value)


def _operation(schema_name: str) -> Operation:
    path, method = _BODIES[schema_name]
    return next(each for each in OPERATIONS if each.path == path and each.method == method.upper())


def _cases(name: str, schema: Fields) -> list[tuple[object, bool]]:
    values = [*candidates(name, schema), *(IMPOSSIBLE_DATES if name == "due_at" else ())]
    return [(value, _is_valid(name, schema, value)) for value in values]


CASES = [
    (body, media_type, name, value, valid)
    for body, schema in SCHEMAS.items()
    for media_type in MEDIA_TYPES[body]
    for name, property_schema in schema["properties"].items()
    for value, valid in _cases(name, property_schema)
]


@probe(
    "task.title", "task.description", "task.priority", "task.due-at", "task.tags", "task.text",
    "task.characters",
    "task.strict", "task.null", "task.completed-at", "task.version", "task.timestamps", "task.fields",
    "task.id",
    "task.owner", "tasks.create.created", "tasks.create.defaults", "tasks.replace.replaced",
    "tasks.update.merge",
    "problems.errors", "headers.utf8",
    at_least=len(CASES),
)  # fmt: skip
def a_value_at_each_limit_of_each_field(prober: Prober) -> None:
    task = prober.context.any_task()
    for body, media_type, name, value, valid in CASES:
        fields = (
            {"title": "x", name: value} if "title" in SCHEMAS[body].get("required", ()) else {name: value}
        )
        if valid:
            send_valid(prober, _operation(body), task, fields, media_type)
        else:
            _send_invalid(prober, _operation(body), task, fields, f"/{name}", media_type)


def send_valid(
    prober: Prober, operation: Operation, task: str, fields: Fields, media_type: str = "application/json"
) -> None:
    """The stored row and the response are exactly what the operation says."""
    context = prober.context
    before = context.row(UUID(task))
    raw = json.dumps(fields, ensure_ascii=False).encode()
    response = prober.accept(
        operation.status,
        operation.method,
        operation.url(task),
        token=context.owner,
        content=raw,
        headers=[("Content-Type", media_type)],
    )
    if response.status_code != operation.status:
        return
    answer: Fields = response.json()
    after = context.row(UUID(answer["id"]))
    if after is None:
        prober.fail("what the response contains is not stored", response)
        return
    if operation.method == "POST":
        problems = expected_effects.check_create(after, fields, context.owner.id)
        location = response.headers.get("Location")
        prober.expect(location == f"{TASKS}/{answer['id']}", f"the Location is {location!r}", response)
    else:
        problems = expected_effects.check_operation(operation, before, after, fields)
    for problem in problems:
        prober.fail(problem, response)
    parse = expected_effects.parse_timestamps
    prober.expect(parse(answer) == parse(after), "the response is not what is stored", response)


def _send_invalid(
    prober: Prober,
    operation: Operation,
    task: str,
    fields: Fields,
    pointer: str,
    media_type: str = "application/json",
) -> Response:
    response = prober.refuse(
        422, "invalid-request", operation.method, operation.url(task),
        token=prober.context.owner, content=json.dumps(fields).encode(),
        headers=[("Content-Type", media_type)],
    )  # fmt: skip
    prober.expect_errors(response, "pointer", pointer)
    return response


@probe("task.unknown-fields", "tasks.isolation.writes", at_least=(len(READ_ONLY) + 4) * len(SCHEMAS) - 1)
def a_field_that_is_unknown_or_not_writable(prober: Prober) -> None:
    context = prober.context
    task = context.any_task()
    names = (*READ_ONLY, "color", "Title", "__proto__", "")
    for body, media_types in MEDIA_TYPES.items():
        unknown = [name for name in names if name not in SCHEMAS[body]["properties"]]
        for media_type, name in itertools.product(media_types, unknown):
            value = {"user_id": context.stranger.id, "id": task}.get(name, "2030-05-17T08:00:00Z")
            _send_invalid(prober, _operation(body), task, {"title": "x", name: value}, "", media_type)
    for body in SCHEMAS:
        response = _send_invalid(prober, _operation(body), task, {"title": "x", "a": 1, "b": 2}, "")
        if response.status_code == 422:
            prober.expect(len(response.json()["errors"]) == 1, "the same error is listed twice", response)


@probe("tasks.create.title-required", "tasks.replace.title-required", at_least=4)
def a_body_without_its_required_field(prober: Prober) -> None:
    task = prober.context.any_task()
    for body, schema in SCHEMAS.items():
        for name in schema.get("required", ()):
            incomplete: list[Fields] = [{}, {"description": "no title"}]
            for fields in incomplete:
                _send_invalid(prober, _operation(body), task, fields, f"/{name}")


@probe("tasks.update.empty", "task.version", "task.completed-at", at_least=12)
def a_task_through_its_life(prober: Prober) -> None:
    """Patches after each other: an empty one, each field, completion twice and back."""
    context = prober.context
    task = context.any_task()
    update = _operation("TaskUpdate")
    patches: list[Fields] = [
        {}, {"completed": False}, {"completed": True}, {"title": "Still completed"}, {"completed": True}, {},
        {"completed": False}, {"description": "x", "tags": ["b", "a"], "due_at": "2030-05-17T08:00:00+02:00"},
        {"title": "The rest is kept"}, {"description": None, "due_at": None}, {"tags": []},
        {"priority": "low"},
    ]  # fmt: skip
    for fields in patches:
        send_valid(prober, update, task, fields)
    replace = _operation("TaskReplace")
    send_valid(prober, replace, task, {"title": "All else is default"})
    send_valid(prober, replace, task, {"title": "Done", "completed": True, "tags": ["a"]})
    send_valid(prober, replace, task, {"title": "Done", "completed": True})
