"""The bodies of requests and responses, and the field types that they share.

Source of the rules: specs/api/rest-endpoints.md, section 2. No SQL and no HTTP.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Annotated, Literal, TypeVar
from uuid import UUID

from pydantic import (
    MISSING,
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError
from sqlmodel import SQLModel

from models import Priority
from problems import Problem

# Unicode's White_Space property, which is what `strip_whitespace` trims. The
# published pattern spells it out, because `\s` differs between regex engines.
WHITE_SPACE = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
NO_NUL = r"^[^\x00]*$"
_NON_SPACE = rf"[^\x00{WHITE_SPACE}]"
TITLE_PATTERN = rf"^[{WHITE_SPACE}]*{_NON_SPACE}([^\x00]{{0,198}}{_NON_SPACE})?[{WHITE_SPACE}]*$"

WORDS_PATTERN = rf"^[{WHITE_SPACE}]*{_NON_SPACE}+([{WHITE_SPACE}]+{_NON_SPACE}+){{0,4}}[{WHITE_SPACE}]*$"
_QUERY_WORDS = re.compile(WORDS_PATTERN.removesuffix("$"))

# RFC 3339, section 5.6, in the years that can be stored, without leap seconds:
# neither Python nor PostgreSQL can represent them.
DUE_AT_PATTERN = (
    r"^(19[7-9][0-9]|[2-9][0-9]{3})-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
    r"[Tt]([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?"
    r"([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$"
)
_DUE_AT = re.compile(DUE_AT_PATTERN.removesuffix("$"))
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
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


MAXIMUM_TAGS = 20

CONFLICT = "conflict"
"""The type of a validation error of a parameter that contradicts another one."""


def _query_boolean(value: object) -> object:
    if value not in ("true", "false"):
        raise PydanticCustomError("boolean", "Input should be true or false")
    return value == "true"


def _comma_separated(value: object) -> object:
    return value.split(",") if isinstance(value, str) else value


def _words(value: str) -> str:
    if not _QUERY_WORDS.fullmatch(value):
        raise PydanticCustomError("words", "Input should have 1 to 5 words")
    return value


def _with_a_date(time: datetime | None, info: ValidationInfo) -> datetime | None:
    if time is not None and info.data.get("due") == "none":
        raise PydanticCustomError(CONFLICT, "Tasks without a due date are in no range")
    return time


def _after_from(before: datetime | None, info: ValidationInfo) -> datetime | None:
    """Reject a range that cannot contain anything; `<name>_from` has been validated before."""
    start = info.data.get(str(info.field_name).replace("_before", "_from"))
    if before is not None and start is not None and before <= start:
        raise PydanticCustomError(CONFLICT, "Input should be later than the beginning of the range")
    return before


Values = TypeVar("Values", list[str], tuple[str, ...])


def _few(values: tuple[str, ...]) -> tuple[str, ...]:
    if len(values) > MAXIMUM_TAGS:
        raise PydanticCustomError("many", "Input should be at most 20 tags")
    return values


def _distinct(values: Values) -> Values:
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
    Field(max_length=MAXIMUM_TAGS, json_schema_extra={"uniqueItems": True}),
    AfterValidator(_distinct),
]


def _without_other_filters(deleted: bool | None, info: ValidationInfo) -> bool | None:
    """The trash is not bounded by the quota of tasks, so filtering it could read any number of rows."""
    if deleted and any(value is not None for value in info.data.values()):
        raise PydanticCustomError(CONFLICT, "The trash cannot be filtered")
    return deleted or None


QueryBoolean = Annotated[bool, BeforeValidator(_query_boolean), WithJsonSchema({"type": "boolean"})]
QueryTags = Annotated[
    tuple[Tag, ...],
    Field(json_schema_extra={"minItems": 1, "maxItems": MAXIMUM_TAGS, "uniqueItems": True}),
    AfterValidator(_few),
    AfterValidator(_distinct),
]


class TaskFilter(BaseModel):
    """Which tasks a list returns; a field that is None does not restrict it.

    Each field is a query parameter. `services.lists.FILTERS` has its condition.
    """

    model_config = ConfigDict(frozen=True)

    completed: Annotated[
        QueryBoolean | None, Field(description="Only tasks with this value of `completed`.")
    ] = None
    priority: Annotated[
        tuple[Priority, ...] | None,
        BeforeValidator(_comma_separated),
        Field(
            json_schema_extra={"explode": False, "minItems": 1},
            description="Only tasks with one of these priorities, separated by commas.",
        ),
    ] = None
    tag: Annotated[
        QueryTags | None, Field(description="Only tasks that have this tag, or all of several.")
    ] = None
    any_tag: Annotated[
        QueryTags | None, Field(description="Only tasks that have at least one of these tags.")
    ] = None
    due: Annotated[
        Literal["none", "any"] | None, Field(description="Only tasks without, or with, a due date.")
    ] = None
    due_from: Annotated[
        DueAt | None,
        Field(description="Only tasks that are due then or later."),
        AfterValidator(_with_a_date),
    ] = None
    due_before: Annotated[
        DueAt | None,
        Field(description="Only tasks that are due earlier."),
        AfterValidator(_with_a_date),
        AfterValidator(_after_from),
    ] = None
    created_from: Annotated[DueAt | None, Field(description="Only tasks created then or later.")] = None
    created_before: Annotated[
        DueAt | None, Field(description="Only tasks created earlier."), AfterValidator(_after_from)
    ] = None
    updated_from: Annotated[DueAt | None, Field(description="Only tasks last changed then or later.")] = None
    updated_before: Annotated[
        DueAt | None, Field(description="Only tasks last changed earlier."), AfterValidator(_after_from)
    ] = None
    q: Annotated[
        Annotated[
            str,
            StringConstraints(max_length=200),
            AfterValidator(_without_nul),
            AfterValidator(_words),
            WithJsonSchema({"type": "string", "maxLength": 200, "pattern": WORDS_PATTERN}),
        ]
        | None,
        Field(description="Only tasks whose title or description contains each of these 1–5 words."),
    ] = None
    deleted: Annotated[
        QueryBoolean | None,
        Field(description="`true` lists the trash instead, which takes no other filter."),
        AfterValidator(_without_other_filters),
    ] = None

    @cached_property
    def given(self) -> Mapping[str, object]:
        """The fields that restrict the list."""
        values = {name: getattr(self, name) for name in TaskFilter.model_fields}
        return {name: value for name, value in values.items() if value is not None}


def _canonical(value: object) -> object:
    if not isinstance(value, str) or not _UUID.fullmatch(value):
        raise PydanticCustomError("uuid", "Input should be a UUID in its canonical form")
    return UUID(value)


TaskUUID = Annotated[UUID, BeforeValidator(_canonical), WithJsonSchema({"type": "string", "format": "uuid"})]


class TaskWrite(SQLModel):
    """Base of request bodies: strict, so that no value is converted to another type."""

    model_config = ConfigDict(extra="forbid", strict=True)  # type: ignore[assignment]

    @model_validator(mode="before")
    @classmethod
    def _keep_one_unknown_name(cls, document: object) -> object:
        """pydantic took 91 ms to report 7,000 of them."""
        if isinstance(document, dict):
            for name in [*(document.keys() - cls.model_fields.keys())][1:]:
                del document[name]
        return document


class TaskReplace(TaskWrite):
    """Every writable field of a task. An omitted field takes its default."""

    title: Title
    description: Description | None = None
    completed: bool = False
    priority: Priority = "medium"
    due_at: DueAt | None = None
    tags: Tags = []


class TaskCreate(TaskReplace):
    """A new task. An omitted field takes its default, and `id` a new UUIDv7."""

    id: TaskUUID | MISSING = MISSING


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
    deleted_at: datetime | None
    seq: Annotated[int, Field(exclude=True)]
    """The position of the last change in the feed of the user, which responses do not have."""


def _integral(value: object) -> object:
    """To JSON Schema, 2.0 is an integer."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Version = Annotated[int, Field(ge=1, le=2_147_483_647), BeforeValidator(_integral)]
MAXIMUM_OPERATIONS = 100


class BatchCreate(TaskWrite):
    """Create a task, as `POST /api/tasks` does."""

    op: Literal["create"]
    id: TaskUUID | MISSING = MISSING
    task: TaskReplace


class _OnOneTask(TaskWrite):
    id: TaskUUID
    if_version: Version | MISSING = MISSING


class BatchUpdate(_OnOneTask):
    """Change some fields of a task, as PATCH does."""

    op: Literal["update"]
    task: TaskUpdate


class BatchDelete(_OnOneTask):
    """Delete a task."""

    op: Literal["delete"]


class BatchRestore(_OnOneTask):
    """Bring a deleted task back."""

    op: Literal["restore"]


Operation = BatchCreate | BatchUpdate | BatchDelete | BatchRestore
OPERATIONS: Mapping[str, type[TaskWrite]] = {
    "create": BatchCreate,
    "update": BatchUpdate,
    "delete": BatchDelete,
    "restore": BatchRestore,
}
"""The model of each kind of operation."""


class Batch(TaskWrite):
    """Operations on different tasks, and whether all of them must succeed."""

    atomic: bool = False
    operations: Annotated[
        list[Annotated[Operation, Field(discriminator="op")]],
        Field(min_length=1, max_length=MAXIMUM_OPERATIONS),
    ]


class BatchResult(BaseModel):
    """What has become of one operation."""

    status: Annotated[int, Field(description="The status that the operation would have alone.")]
    task: Annotated[
        TaskRead | MISSING,
        Field(description="The task, with status 200 or 201, and as it is now with 409 or 412."),
    ] = MISSING
    problem: Annotated[Problem | MISSING, Field(description="With a status of 400 or above.")] = MISSING


class BatchResults(BaseModel):
    """One result for each operation, in their order."""

    results: list[BatchResult]


POSITION_PATTERN = r"^(0|[1-9][0-9]{0,15}(-(0|[1-9][0-9]{0,15}))?)$"
"""How far a client has followed the feed; `services.changes.Position` explains its parts."""


class TaskChanges(BaseModel):
    """The tasks that have changed, in the order of their last changes."""

    tasks: list[TaskRead]
    position: Annotated[
        str, Field(pattern=POSITION_PATTERN, description="Where to continue: the next value of `since`.")
    ]
    more: Annotated[bool, Field(description="Whether there are further changes.")]


task_json = TypeAdapter(TaskRead).dump_json
"""The JSON of a task, as bytes."""
