"""The tables as SQLModel classes.

Migrations create them; see specs/database/schema.md. Bodies are in `schemas.py`.
"""

from datetime import datetime
from typing import Literal
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Index,
    Integer,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    Uuid,
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

# In PostgreSQL's own notation, with its line breaks: Alembic compares the text.
PRIORITY_RANK = (
    "\nCASE priority\n    WHEN 'high'::text THEN 3\n    WHEN 'medium'::text THEN 2\n    ELSE 1\nEND"
)
"""By which tasks are ordered. An index has this expression, so queries must repeat it."""


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
        Index("uq_tasks_user_id_seq", "user_id", "seq", unique=True),
        *(
            Index(f"ix_tasks_live_{order}", "user_id", *columns, postgresql_where=text("deleted_at IS NULL"))
            for order, columns in {
                "created": ("created_at", "id"),
                "completed": ("completed", "created_at", "id"),
                "due": ("due_at", "id"),
                "priority": (text(f"({PRIORITY_RANK})"), "id"),
                "updated": ("seq",),
            }.items()
        ),
        Index("ix_tasks_trash", "user_id", "seq", postgresql_where=text("deleted_at IS NOT NULL")),
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
    seq: int = Column(sa_type=BigInteger)
    search_title: str | None = Column(default=None, sa_type=Text)
    search_description: str | None = Column(default=None, sa_type=Text)


class Feed(SQLModel, table=True):
    """One row for each user who ever had a task: the position of the last change, and a counter."""

    __tablename__ = "feeds"
    __table_args__ = (
        PrimaryKeyConstraint("user_id"),
        CheckConstraint("char_length(user_id) BETWEEN 1 AND 255", "user_id_length"),
        CheckConstraint("seq >= 1", "seq_positive"),
        CheckConstraint("live_tasks >= 0", "live_tasks_counted"),
        {"postgresql_with": {"fillfactor": 50}},
    )

    user_id: str = Column(sa_type=Text)
    seq: int = Column(sa_type=BigInteger)
    live_tasks: int = Column(sa_type=Integer)
    purged_seq: int = Column(default=0, sa_type=BigInteger, sa_column_kwargs={"server_default": text("0")})


class IdempotencyKey(SQLModel, table=True):
    """What a request under an Idempotency-Key has done. A later key replaces that in the same slot."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (
        PrimaryKeyConstraint("user_id", "slot"),
        CheckConstraint("char_length(user_id) BETWEEN 1 AND 255", "user_id_length"),
        CheckConstraint("slot BETWEEN 0 AND 9999", "slot_bounded"),
        Index(None, "user_id", "key_hash"),
    )

    user_id: str = Column(sa_type=Text)
    slot: int = Column(sa_type=SmallInteger)
    key_hash: bytes
    fingerprint: bytes
    task_id: UUID
    created_at: datetime
    seq: int = Column(default=0, sa_type=BigInteger, sa_column_kwargs={"server_default": text("0")})
    outcomes: list[str] | None = Column(default=None, sa_type=ARRAY(Text))
    task_ids: list[UUID] | None = Column(default=None, sa_type=ARRAY(Uuid))


TASKS: Table = SQLModel.metadata.tables["tasks"]
"""`Task` as a Core table: selecting its columns avoids the ORM's per-row overhead."""

FEEDS: Table = SQLModel.metadata.tables["feeds"]
KEYS: Table = SQLModel.metadata.tables["idempotency_keys"]
