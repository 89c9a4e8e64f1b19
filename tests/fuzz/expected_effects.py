"""The expected effect of each operation on the stored task, implemented independently of the service.

Source: specs/api/rest-endpoints.md, sections 2 and 3. Each check compares the row
before, the request and the row after, and yields what is wrong.
"""

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from tests.environment import ROOT
from tests.fuzz.context import Row
from tests.operations import Operation

Fields = Mapping[str, Any]

_BODY = json.loads((ROOT / "specs/openapi.json").read_text())["components"]["schemas"]["TaskReplace"]
WRITABLE = tuple(_BODY["properties"])
DEFAULTS: Fields = {name: each["default"] for name, each in _BODY["properties"].items() if "default" in each}
FIXED = ("id", "user_id", "created_at", "deleted_at")
WHITE_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
WHITE_SPACE += "\u2028\u2029\u202f\u205f\u3000"
_SECONDS_FRACTION = re.compile(r"(\.\d{6})\d+")


def parse_timestamps(task: Fields) -> Row:
    """Replace timestamps by datetimes, so that different notations compare equal."""
    return {name: _parse_timestamp(value) if name.endswith("_at") else value for name, value in task.items()}


def _parse_timestamp(value: str | None) -> datetime | None:
    if value is None:
        return None
    truncated = _SECONDS_FRACTION.sub(r"\1", value.upper())
    return datetime.fromisoformat(truncated).astimezone(UTC)


def _as_stored(sent: Fields) -> Row:
    kept = parse_timestamps(sent)
    if "title" in kept:
        kept["title"] = kept["title"].strip(WHITE_SPACE)
    if "id" in kept:
        kept["id"] = kept["id"].lower()
    return kept


def check_create(after: Row, sent: Fields, owner: str) -> Iterator[str]:
    after = parse_timestamps(after)
    expected = {**DEFAULTS, **_as_stored(sent), "user_id": owner, "version": 1, "deleted_at": None}
    yield from _differences(expected, after)
    if "id" not in sent and UUID(after["id"]).version != 7:
        yield "the id is not a UUIDv7"
    if after["updated_at"] != after["created_at"]:
        yield "updated_at of a new task is not its created_at"
    yield from _check_completed_at(None, after)


def check_operation(
    operation: Operation, before: Row | None, after: Row | None, sent: Fields
) -> Iterator[str]:
    """Check a successful operation on one task."""
    if before is None or (before["deleted_at"] is not None and not operation.takes_deleted):
        yield "the response has a task that does not exist"
        return
    if after is None:
        yield "the row is gone"
        return
    if operation.takes_deleted:
        yield from _check_restore(before, after)
        return
    changes = operation.effect(DEFAULTS, _as_stored(sent)) if operation.effect else {}
    if "deleted_at" in changes:
        yield from _check_delete(before, after)
    elif changes:
        yield from _check_update(before, after, changes)
    elif before != after:
        yield "a read changed the task"


def _check_delete(before: Row, after: Row) -> Iterator[str]:
    if after["deleted_at"] is None:
        yield "deleted_at is not set"
    yield from _differences({**before, "deleted_at": after["deleted_at"]}, after)


def _check_restore(before: Row, after: Row) -> Iterator[str]:
    if before["deleted_at"] is None:
        yield from _differences(before, after)
        return
    changed = {"deleted_at": None, "version": before["version"] + 1, "updated_at": after["updated_at"]}
    yield from _differences({**before, **changed}, after)
    if after["updated_at"] < before["deleted_at"]:
        yield "updated_at is not the time of the restore"


def _check_update(before: Row, after: Row, changes: Fields) -> Iterator[str]:
    before, after = parse_timestamps(before), parse_timestamps(after)
    kept = {name: before[name] for name in (*WRITABLE, *FIXED)}
    yield from _differences({**kept, **changes, "version": before["version"] + 1}, after)
    if after["updated_at"] <= before["updated_at"]:
        yield "updated_at did not move on"
    yield from _check_completed_at(before, after)


def _check_completed_at(before: Row | None, after: Row) -> Iterator[str]:
    if after["completed"] != (after["completed_at"] is not None):
        yield "completed_at does not agree with completed"
    if before and before["completed"] and after["completed"]:
        yield from _differences({"completed_at": before["completed_at"]}, after)
    elif before and after["completed"] and after["completed_at"] <= before["updated_at"]:
        yield "completed_at is not the time of the change"


def _differences(expected: Fields, found: Fields) -> Iterator[str]:
    for name, value in expected.items():
        if name not in found:
            yield f"{name} is not kept"
        elif found[name] != value:
            yield f"{name} is {found[name]!r} and not {value!r}"
