"""The tables of the specification, read so that tests need not repeat them."""

import json
import re
from collections.abc import Iterator

from tests.environment import ROOT

_NAMES = re.compile(r"`(\w+)`")
_DEFAULT = re.compile(r"default `?([^`\s|;]+)`?")


def table(document: str, first_heading: str) -> list[list[str]]:
    """The cells of the rows of the table whose first column has this heading."""
    lines = iter((ROOT / "specs" / document).read_text().splitlines())
    rows = []
    for line in lines:
        if line.startswith(f"| {first_heading} |"):
            next(lines)
            for row in lines:
                if not row.startswith("|"):
                    break
                rows.append([cell.strip() for cell in row.strip("|").split("|")])
            return rows
    raise LookupError(f"{document} has no table of {first_heading}")


def sqlstates() -> Iterator[tuple[str, int]]:
    """The documented SQLSTATEs and their status; 000 completes a class."""
    for states, _, status in table("api/rest-endpoints.md", "SQLSTATE"):
        for state in re.findall(r"\b(\d[0-9A-Z]{4})\b", states):
            yield state, int(status)
        for name in re.findall(r"class (\d\d)", states):
            yield f"{name}000", int(status)


def task_fields() -> set[str]:
    return {name for row in table("api/rest-endpoints.md", "field") for name in _NAMES.findall(row[0])}


def task_defaults() -> dict[str, object]:
    """The documented default of every field that has one."""
    rows = table("api/rest-endpoints.md", "field")
    found = {_NAMES.findall(row[0])[0]: _DEFAULT.search(row[-1]) for row in rows}
    return {name: _value(match[1]) for name, match in found.items() if match}


def _value(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


def task_columns() -> dict[str, list[str]]:
    """The cells behind the name of each documented column: type, null, default, rule."""
    return {name: row[1:] for row in table("database/schema.md", "column") for name in _NAMES.findall(row[0])}
