"""Which parts of the contract the systematic requests of a fuzz run have reached.

A run must reach every status of every operation, send every parameter, and both satisfy
and violate every keyword of every schema of a parameter or a body, except `UNREACHED`.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import jsonschema_rs

from tests.environment import ROOT

Schema = Mapping[str, Any]

_TYPES: Mapping[str, tuple[type, ...]] = {
    "minLength": (str,), "maxLength": (str,), "pattern": (str,), "format": (str,),
    "minimum": (int, float), "maximum": (int, float),
    "minItems": (list,), "maxItems": (list,), "uniqueItems": (list,),
    "required": (dict,), "additionalProperties": (dict,),
    "type": (object,), "enum": (object,), "anyOf": (object,),
}  # fmt: skip
"""The keywords that can be violated, and the values that each of them is about."""

UNREACHED: Mapping[str, str] = {
    "status 408": "is about a client that stops sending: tests/process/test_connections.py",
    "status 431": "is sent by gunicorn's parser: tests/hostile",
    "/health/live: status 500": "needs a bug: tests/http/test_problems.py",
    "/health/live: status 503": "needs threads that are all stuck: tests/database/test_hung_connections.py",
    "/health/ready: status 500": "needs a bug: tests/http/test_problems.py",
    "/problems/{name}: status 500": "needs a bug: tests/http/test_problems.py",
    "minItems violated": "cannot be violated: an array without a value is a parameter that is not sent",
}
"""Why a part of the contract, whose name ends with this, is not reached."""


class SchemaCoverage:
    """Counts what requests and responses have in common with the committed contract."""

    def __init__(self) -> None:
        self._contract: Schema = json.loads((ROOT / "specs/openapi.json").read_text())
        self._paths = [
            (re.compile(re.sub(r"\{\w+\}", "([^/]+)", path)), path, item)
            for path, item in self._contract["paths"].items()
        ]
        self.parts = dict.fromkeys(self._all_parts(), 0)
        """How often each part was reached."""

    def record(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, status: int
    ) -> None:
        target = urlsplit(url)
        for pattern, path, item in self._paths:
            match = pattern.fullmatch(target.path)
            operation = item.get(method.lower())
            if match and operation:
                name = f"{method} {path}"
                self._reach(f"{name}: status {status}")
                self._record_parameters(name, operation, match.groups(), target.query, headers)
                self._record_body(name, operation, headers, body)

    def unreached(self) -> Iterator[str]:
        """The parts that were neither reached nor excused, and the excuses that are not needed."""
        missing = [part for part, count in self.parts.items() if not count]
        excused = (*UNREACHED,)
        yield from (f"{part}: was not reached" for part in missing if not part.endswith(excused))
        for each in UNREACHED:
            if not any(part.endswith(each) for part in missing):
                yield f"the reason for not reaching {each} is not needed"

    def report(self) -> str:
        """A Markdown table: per operation, the parts that exist, are reached and are excused."""
        lines = [
            "| operation | statuses | parameters and keywords | not reached |",
            "| --- | ---: | ---: | --- |",
        ]
        operations = dict.fromkeys(part.partition(": ")[0] for part in self.parts)
        for operation in operations:
            own = {part: count for part, count in self.parts.items() if part.startswith(f"{operation}: ")}
            statuses = [count for part, count in own.items() if ": status " in part]
            others = [count for part, count in own.items() if ": status " not in part]
            missing = ", ".join(part.partition(": ")[2] for part, count in own.items() if not count)
            lines.append(f"| {operation} | {_share(statuses)} | {_share(others)} | {missing} |")
        return "\n".join(lines)

    def _all_parts(self) -> Iterator[str]:
        for path, item in self._contract["paths"].items():
            for method, operation in item.items():
                name = f"{method.upper()} {path}"
                yield from (f"{name}: status {status}" for status in operation["responses"])
                for each in operation.get("parameters", []):
                    yield f"{name}: {each['name']} sent"
                    yield from self._keywords(f"{name}: {each['name']}", _of_texts(each["schema"]))
                for media_type, schema in self._bodies(operation):
                    yield f"{name}: {media_type} sent"
                    yield from self._keywords(f"{name}: {media_type}", schema)

    def _bodies(self, operation: Schema) -> Iterator[tuple[str, Schema]]:
        for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
            yield media_type, self._resolved(content["schema"])

    def _resolved(self, schema: Schema) -> Schema:
        name = schema.get("$ref", "").rpartition("/")[2]
        found: Schema = self._contract["components"]["schemas"][name] if name else schema
        return found

    def _branches(self, schema: Schema) -> Iterator[tuple[str, Schema]]:
        """The schemas of a discriminated union, by the value that chooses each of them."""
        for value, reference in schema.get("discriminator", {}).get("mapping", {}).items():
            yield value, self._resolved({"$ref": reference})

    def _record_parameters(
        self,
        name: str,
        operation: Schema,
        segments: tuple[str, ...],
        query: str,
        headers: Mapping[str, str],
    ) -> None:
        given = parse_qs(query, keep_blank_values=True)
        in_path = iter(segments)
        for each in operation.get("parameters", []):
            place, schema = f"{name}: {each['name']}", each["schema"]
            if each["in"] == "path":
                values = [unquote(next(in_path))]
            elif each["in"] == "header":
                values = [headers[each["name"]]] if each["name"] in headers else []
            else:
                values = given.get(each["name"], [])
            if values and schema.get("type") == "array":
                self._reach(f"{place} sent")
                exploded = values if each.get("explode", True) else values[0].split(",")
                self._visit(place, _of_texts(schema), exploded)
                continue
            for value in values:
                self._reach(f"{place} sent")
                self._visit(place, _of_texts(schema), _typed(value, schema))

    def _record_body(
        self, name: str, operation: Schema, headers: Mapping[str, str], body: bytes | None
    ) -> None:
        sent = headers.get("content-type", "").partition(";")[0].strip().lower()
        for media_type, schema in self._bodies(operation):
            if sent == media_type and body:
                try:
                    document = json.loads(body)
                except (ValueError, RecursionError):
                    continue
                self._reach(f"{name}: {media_type} sent")
                self._visit(f"{name}: {media_type}", schema, document)

    def _visit(self, place: str, schema: Schema, value: object) -> None:
        """Count the keywords of a schema, and of the schemas within it, for one value."""
        schema = self._resolved(schema)
        for keyword, types in _TYPES.items():
            if keyword in schema and isinstance(value, types):
                names = dict.fromkeys(schema.get("properties", {}), True)
                beside = {"properties": names} if keyword == "additionalProperties" else {}
                satisfied = _is_valid({keyword: schema[keyword], **beside}, value)
                self._reach(f"{place}: {keyword} {'satisfied' if satisfied else 'violated'}")
        for branch in schema.get("anyOf", []):
            if _is_valid({"type": branch["type"]}, value):
                self._visit(f"{place} ({branch['type']})", branch, value)
        for chosen, branch in self._branches(schema):
            if isinstance(value, dict) and value.get("op") == chosen:
                self._visit(f"{place} ({chosen})", branch, value)
        if isinstance(value, dict):
            for name in value.keys() & schema.get("properties", {}).keys():
                self._visit(f"{place}.{name}", schema["properties"][name], value[name])
        if isinstance(value, list) and "items" in schema:
            for each in value:
                self._visit(f"{place}[]", schema["items"], each)

    def _reach(self, part: str) -> None:
        if part in self.parts:
            self.parts[part] += 1

    def _keywords(self, place: str, schema: Schema) -> Iterator[str]:
        schema = self._resolved(schema)
        for keyword in schema.keys() & _TYPES.keys():
            yield from (f"{place}: {keyword} {outcome}" for outcome in ("satisfied", "violated"))
        for branch in schema.get("anyOf", []):
            # A branch is chosen by its type, which it therefore cannot violate.
            yield f"{place} ({branch['type']}): type satisfied"
            yield from self._keywords(f"{place} ({branch['type']})", _without(branch, "type"))
        for chosen, branch in self._branches(schema):
            # Likewise by the value of `op`.
            members = _without(branch["properties"], "op")
            chosen_branch = {**_without(branch, "type"), "properties": members}
            yield from self._keywords(f"{place} ({chosen})", chosen_branch)
        for name, inner in schema.get("properties", {}).items():
            yield from self._keywords(f"{place}.{name}", inner)
        if "items" in schema:
            yield from self._keywords(f"{place}[]", schema["items"])


def _without(schema: Schema, name: str) -> Schema:
    return {key: value for key, value in schema.items() if key != name}


def _of_texts(schema: Schema) -> Schema:
    """The schema of a parameter without the types that every text has."""
    inner = {"items": _of_texts(schema["items"])} if "items" in schema else {}
    kept = {
        name: value for name, value in schema.items() if name != "type" or value not in {"string", "array"}
    }
    return {**kept, **inner}


def _is_valid(schema: Schema, value: object) -> bool:
    try:
        return jsonschema_rs.is_valid(dict(schema), value, validate_formats=True)
    except ValueError:  # A lone surrogate is no string for this library.
        return False


def _typed(value: str, schema: Schema) -> object:
    """A query value as the type that its schema has, if it can be one."""
    try:
        return value if schema["type"] == "string" else json.loads(value)
    except ValueError:
        return value


def _share(counts: list[int]) -> str:
    return f"{sum(map(bool, counts))} of {len(counts)}"
