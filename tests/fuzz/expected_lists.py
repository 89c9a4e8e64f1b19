"""The expected content of a list, implemented independently of the service.

Source: specs/api/rest-endpoints.md, section 3, `GET /api/tasks`.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from tests.fuzz.context import FuzzContext
from tests.fuzz.expected_effects import parse_timestamps

Query = Sequence[tuple[str, str]]
Row = Mapping[str, Any]

RANK = {"low": 1, "medium": 2, "high": 3}


def expected_ids(context: FuzzContext, user_id: str, query: Query) -> list[str]:
    """The IDs of all tasks of a valid query, in order, on however many pages."""
    given = {name: [value for each, value in query if each == name] for name, _ in query}
    found = context.query("SELECT to_jsonb(tasks) FROM tasks WHERE user_id = %s", user_id)
    rows = [parse_timestamps(row) for (row,) in found]
    deleted = given.get("deleted") == ["true"]
    chosen = [row for row in rows if bool(row["deleted_at"]) is deleted and _matches(row, given)]
    [sort] = given.get("sort", ["-updated" if deleted else "-created"])
    return [row["id"] for row in _in_order(chosen, sort)]


def _matches(row: Row, given: Mapping[str, Sequence[str]]) -> bool:
    tags = set(row["tags"])
    words = _fold(" ".join(given.get("q", []))).split()
    texts = [_fold(row["title"]), _fold(row["description"] or "")]
    return (
        given.get("completed", [str(row["completed"]).lower()]) == [str(row["completed"]).lower()]
        and row["priority"] in given.get("priority", [row["priority"]])[0].split(",")
        and tags.issuperset(given.get("tag", []))
        and ("any_tag" not in given or not tags.isdisjoint(given["any_tag"]))
        and given.get("due", [""])[0] in {"", "any" if row["due_at"] else "none"}
        and all(_in_range(row[f"{name}_at"], name, given) for name in ("due", "created", "updated"))
        and all(any(word in text for text in texts) for word in words)
    )


def _in_range(value: datetime | None, name: str, given: Mapping[str, Sequence[str]]) -> bool:
    bounds = {
        each: parse_timestamps({"time_at": given[f"{name}_{each}"][0]})["time_at"]
        for each in ("from", "before")
        if f"{name}_{each}" in given
    }
    if value is None:
        return not bounds
    return bounds.get("from", value) <= value and ("before" not in bounds or value < bounds["before"])


def _in_order(rows: Sequence[Row], sort: str) -> list[Row]:
    name, descending = sort.removeprefix("-"), sort.startswith("-")
    keys = {
        "created": lambda row: (row["created_at"], row["id"]),
        "due": lambda row: (row["due_at"], row["id"]),
        "priority": lambda row: (RANK[row["priority"]], row["id"]),
        "updated": lambda row: row["seq"],
    }
    undated = [row for row in rows if name == "due" and row["due_at"] is None]
    dated = [row for row in rows if name != "due" or row["due_at"] is not None]
    return [
        *sorted(dated, key=keys[name], reverse=descending),
        *sorted(undated, key=lambda row: str(row["id"]), reverse=descending),
    ]


def _fold(text: str) -> str:
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    return unicodedata.normalize("NFC", "".join(c for c in folded if unicodedata.category(c) != "Mn"))
