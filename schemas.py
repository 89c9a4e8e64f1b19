"""The bodies of requests and responses, and the field types that they share.

Source of the rules: specs/api/rest-endpoints.md, section 2. No SQL and no HTTP.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

from pydantic import (
    MISSING,
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError
from sqlmodel import SQLModel

from models import Priority

# Unicode's White_Space property, which is what `strip_whitespace` trims. The
# published pattern spells it out, because `\s` differs between regex engines.
WHITE_SPACE = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
NO_NUL = r"^[^\x00]*$"
_NON_SPACE = rf"[^\x00{WHITE_SPACE}]"
TITLE_PATTERN = rf"^[{WHITE_SPACE}]*{_NON_SPACE}([^\x00]{{0,198}}{_NON_SPACE})?[{WHITE_SPACE}]*$"

# RFC 3339, section 5.6, in the years that can be stored, without leap seconds:
# neither Python nor PostgreSQL can represent them.
DUE_AT_PATTERN = (
    r"^(19[7-9][0-9]|[2-9][0-9]{3})-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
    r"[Tt]([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?"
    r"([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$"
)
_DUE_AT = re.compile(DUE_AT_PATTERN.removesuffix("$"))
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)


def _without_nul(value: str) -> str:
    if "\0" in value:
        raise PydanticCustomError("nul", "Text must not contain U+0000")
    return value


_DATE_TIME_EXPECTED = (
    "Input should be an RFC 3339 date-time with an offset, in the years 1970–9999, "
    "with up to 9 fractional digits and without a leap second"
)


def _date_time(value: object) -> datetime:
    """Convert an RFC 3339 date-time to UTC.

    The range is checked after the conversion: 9999-12-31T23:59:59-14:00 is in year 10000 in
    UTC, which Python cannot represent and the table's constraint rejects.
    """
    if not isinstance(value, str) or not _DUE_AT.fullmatch(value):
        raise PydanticCustomError("date_time", _DATE_TIME_EXPECTED)
    try:
        instant = datetime.fromisoformat(value.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise PydanticCustomError(
            "date_time", "Input should be an existing date, up to year 9999 in UTC"
        ) from None
    if instant < EARLIEST:
        raise PydanticCustomError("date_time", "Input should be no earlier than 1970 in UTC")
    return instant


def _query_boolean(value: object) -> object:
    if value not in ("true", "false"):
        raise PydanticCustomError("boolean", "Input should be true or false")
    return value == "true"


def _distinct(values: list[str]) -> list[str]:
    if len(set(values)) < len(values):
        raise PydanticCustomError("distinct", "Tags should be unique")
    return values


Title = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=200),
    AfterValidator(_without_nul),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": TITLE_PATTERN,
            "description": "1–200 characters after leading and trailing white space is removed.",
        }
    ),
]
Description = Annotated[
    str,
    StringConstraints(max_length=5000),
    AfterValidator(_without_nul),
    WithJsonSchema({"type": "string", "maxLength": 5000, "pattern": NO_NUL}),
]
DueAt = Annotated[
    datetime,
    BeforeValidator(_date_time),
    WithJsonSchema(
        {
            "type": "string",
            "format": "date-time",
            "pattern": DUE_AT_PATTERN,
            "description": "RFC 3339 with an offset, in the years 1970–9999 after conversion to UTC.",
        }
    ),
]
Tag = Annotated[
    str,
    StringConstraints(min_length=1, max_length=50),
    AfterValidator(_without_nul),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": 50, "pattern": NO_NUL}),
]
Tags = Annotated[
    list[Tag],
    Field(max_length=20, json_schema_extra={"uniqueItems": True}),
    AfterValidator(_distinct),
]


class TaskFilter(BaseModel):
    """Which tasks a list returns; a field that is None does not restrict it.

    Each field is a query parameter that tests the column of the same name for equality. The
    parameter's validation and OpenAPI text, the SQL and the cursor binding are all derived
    from the field.
    """

    model_config = ConfigDict(frozen=True)

    completed: Annotated[
        bool | None,
        BeforeValidator(_query_boolean),
        WithJsonSchema({"type": "boolean"}),
        Field(description="Return only tasks with this value of `completed`."),
    ] = None

    def given(self) -> dict[str, object]:
        """The fields that restrict the list."""
        values = {name: getattr(self, name) for name in TaskFilter.model_fields}
        return {name: value for name, value in values.items() if value is not None}


class TaskWrite(SQLModel):
    """Base of request bodies: strict, so that no value is converted to another type."""

    model_config = ConfigDict(extra="forbid", strict=True)  # type: ignore[assignment]


class TaskCreate(TaskWrite):
    """A new task. An omitted field takes its default."""

    title: Title
    description: Description | None = None
    completed: bool = False
    priority: Priority = "medium"
    due_at: DueAt | None = None
    tags: Tags = []


class TaskReplace(TaskCreate):
    """Every writable field of a task. An omitted field takes its default."""


class TaskUpdate(TaskWrite):
    """A JSON Merge Patch (RFC 7396): an omitted field keeps its value, null clears it."""

    title: Title | MISSING = MISSING
    description: Description | None | MISSING = MISSING
    completed: bool | MISSING = MISSING
    priority: Priority | MISSING = MISSING
    due_at: DueAt | None | MISSING = MISSING
    tags: Tags | MISSING = MISSING


# A dataclass, because 20 of them take 22 µs to construct and serialise; pydantic models took 125.
@dataclass(slots=True)
class TaskRead:
    """A task in a response. Timestamps are RFC 3339 in UTC."""

    id: Annotated[str, WithJsonSchema({"type": "string", "format": "uuid"})]
    user_id: str
    title: str
    description: str | None
    completed: bool
    completed_at: datetime | None
    priority: Priority
    due_at: datetime | None
    tags: list[str]
    version: Annotated[int, Field(ge=1)]
    created_at: datetime
    updated_at: datetime
    deleted_at: None
