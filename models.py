"""The table, and the bodies that requests and answers have.

No HTTP and no statements: what a task is, and which values it may hold.
Source of the rules: specs/api/rest-endpoints.md, section 2, for the bodies and
specs/database/schema.md for the table.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import (
    MISSING,
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError
from sqlalchemy import (
    ARRAY,
    Boolean,
    CheckConstraint,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
    func,
    text,
)
from sqlmodel import Field as Column
from sqlmodel import SQLModel

# Stable names, so that a migration can name what an earlier one made.
SQLModel.metadata.naming_convention = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "pk": "pk_%(table_name)s",
}

Priority = Literal["low", "medium", "high"]


class Task(SQLModel, table=True):
    """One row of `tasks`; the migrations create it, see specs/database/schema.md."""

    __tablename__ = "tasks"
    __table_args__ = (
        PrimaryKeyConstraint("user_id", "id"),
        CheckConstraint("char_length(user_id) BETWEEN 1 AND 255", "user_id_length"),
        CheckConstraint("char_length(title) BETWEEN 1 AND 200", "title_length"),
        CheckConstraint("char_length(description) <= 5000", "description_length"),
        CheckConstraint("completed = (completed_at IS NOT NULL)", "completed_at_agrees"),
        CheckConstraint("priority IN ('low', 'medium', 'high')", "priority_known"),
        CheckConstraint(
            "due_at >= '1970-01-01 00:00:00+00' AND due_at < '10000-01-01 00:00:00+00'",
            "due_at_range",
        ),
        CheckConstraint(
            "cardinality(tags) <= 20 AND coalesce(array_ndims(tags), 1) = 1"
            " AND array_position(tags, NULL) IS NULL",
            "tags_flat",
        ),
        CheckConstraint("version >= 1", "version_positive"),
        Index(None, "user_id", "completed", "id", postgresql_where=text("deleted_at IS NULL")),
    )

    user_id: str = Column(sa_type=Text)
    id: UUID
    title: str = Column(sa_type=Text)
    description: str | None = Column(default=None, sa_type=Text)
    completed: bool = Column(
        default=False, sa_type=Boolean, sa_column_kwargs={"server_default": text("false")}
    )
    completed_at: datetime | None = None
    priority: Priority = Column(default="medium", sa_type=Text, sa_column_kwargs={"server_default": "medium"})
    due_at: datetime | None = None
    tags: list[str] = Column(
        default_factory=list, sa_type=ARRAY(Text), sa_column_kwargs={"server_default": "{}"}
    )
    version: int = Column(default=1, sa_type=Integer, sa_column_kwargs={"server_default": text("1")})
    created_at: datetime = Column(sa_column_kwargs={"server_default": func.now()})
    updated_at: datetime = Column(sa_column_kwargs={"server_default": func.now()})
    deleted_at: datetime | None = None


TASKS: Table = SQLModel.metadata.tables["tasks"]
"""`Task` as a table: statements on columns skip the ORM's work per row."""

# Unicode's White_Space property, which is what `strip_whitespace` trims. The
# published pattern spells it out, for `\s` differs from engine to engine.
WHITE_SPACE = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
NO_NUL = r"^[^\x00]*$"
_INK = rf"[^\x00{WHITE_SPACE}]"
TITLE_PATTERN = rf"^[{WHITE_SPACE}]*{_INK}([^\x00]{{0,198}}{_INK})?[{WHITE_SPACE}]*$"

# RFC 3339, section 5.6, in the years that can be stored; the leap second is
# left out, for neither Python nor PostgreSQL can hold it.
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
    "with up to 9 digits of a fraction and without a leap second"
)


def _date_time(value: object) -> datetime:
    """An RFC 3339 date-time as UTC.

    Bounds are checked after the conversion: 9999-12-31T23:59:59-14:00 can be
    written to PostgreSQL, and then no read of the row succeeds.
    """
    if not isinstance(value, str) or not _DUE_AT.fullmatch(value):
        raise PydanticCustomError("date_time", _DATE_TIME_EXPECTED)
    try:
        instant = datetime.fromisoformat(value.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise PydanticCustomError(
            "date_time", "Input should be a date that exists, up to year 9999"
        ) from None
    if instant < EARLIEST:
        raise PydanticCustomError("date_time", "Input should be no earlier than 1970 in UTC")
    return instant


def _distinct(values: list[str]) -> list[str]:
    if len(set(values)) < len(values):
        raise PydanticCustomError("distinct", "Tags should all be different")
    return values


Title = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=200),
    AfterValidator(_without_nul),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": TITLE_PATTERN,
            "description": "1–200 characters after white space at both ends is cut off.",
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


class TaskWrite(SQLModel):
    """What a request may say of a task; strict, so that nothing is converted."""

    model_config = ConfigDict(extra="forbid", strict=True)  # type: ignore[assignment]


class TaskCreate(TaskWrite):
    """A new task. A field that is left out takes its default."""

    title: Title
    description: Description | None = None
    completed: bool = False
    priority: Priority = "medium"
    due_at: DueAt | None = None
    tags: Tags = []


class TaskReplace(TaskCreate):
    """All that a user can write of a task. A field that is left out takes its default."""


class TaskUpdate(TaskWrite):
    """A JSON Merge Patch (RFC 7396): absent keeps, null clears where null is allowed."""

    title: Title | MISSING = MISSING
    description: Description | None | MISSING = MISSING
    completed: bool | MISSING = MISSING
    priority: Priority | MISSING = MISSING
    due_at: DueAt | None | MISSING = MISSING
    tags: Tags | MISSING = MISSING


# A page of 20 takes 22 µs to make and to serialise; as pydantic's models it took 125.
@dataclass(slots=True)
class TaskRead:
    """A task as every answer shows it. Timestamps are RFC 3339 in UTC."""

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
