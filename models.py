"""The `tasks` table as a SQLModel class.

Migrations create it; see specs/database/schema.md. Bodies are in `schemas.py`.
"""

from datetime import datetime
from typing import Literal
from uuid import UUID

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

# Stable names, so that a migration can refer to constraints of an earlier one.
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
"""`Task` as a Core table: selecting its columns avoids the ORM's per-row overhead."""
