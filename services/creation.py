"""Creating a task so that the request can be repeated: with an ID of the client, or under a key.

    KeyReused     the key belongs to a create with another body
    TaskExists    the user has a task with this ID that is not what the body asks for

A key remembers which task it made, and when. The response to the first request follows from that
and from the body, which a repeated request must have again. Source: specs/api/rest-endpoints.md.
"""

import hashlib
import json
from datetime import datetime
from typing import Any, Literal, NamedTuple

from pydantic import MISSING
from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Executable,
    LargeBinary,
    SmallInteger,
    Text,
    Uuid,
    and_,
    bindparam,
    cast,
    exists,
    func,
    insert,
    literal_column,
    null,
    select,
    true,
)
from sqlalchemy.dialects.postgresql import insert as upsert

from database.session import UserSession
from models import KEYS, TASKS
from schemas import TaskCreate, TaskRead
from services import tasks
from services.tasks import CALLER, COLUMNS, WIDTH, WRITABLE, QuotaReached, split

KEYS_PER_USER = 10_000
"""A key can be forgotten before 24 hours are over, but not before this many further changes."""

KEPT = "interval '24 hours'"


class KeyReused(Exception):
    """The key belongs to a create with another body."""


class TaskExists(Exception):
    """The user has a task with this ID, at the position `seq`. It has other content, or is deleted."""

    def __init__(self, seq: int) -> None:
        self.seq = seq


class Creation(NamedTuple):
    task: TaskRead
    outcome: Literal["created", "repeated", "existing"]
    """Repeated: the task as it was created, by a request with the same key. Existing: as it is now."""


class _Known(NamedTuple):
    """What a key has made, from which task, and at which position of the feed."""

    task_id: str
    created_at: datetime
    fingerprint: bytes
    seq: int

    def repeat(self, caller: str, task: TaskCreate, fingerprint: bytes) -> TaskRead:
        """The task as it was when the key was new, whatever has happened to it since. Raises KeyReused."""
        if bytes(self.fingerprint) != fingerprint:
            raise KeyReused
        return TaskRead(
            id=self.task_id,
            user_id=caller,
            version=1,
            created_at=self.created_at,
            updated_at=self.created_at,
            completed_at=self.created_at if task.completed else None,
            deleted_at=None,
            seq=self.seq,
            **{name: getattr(task, name) for name in WRITABLE},
        )


def create_task(session: UserSession, caller: str, task: TaskCreate, key: str | None) -> Creation:
    """Store a new task, unless an earlier request has: one with the same key, or the same ID.

    Raises QuotaReached, KeyReused and TaskExists.
    """
    if key is None and task.id is MISSING:
        return Creation(tasks.create_task(session, caller, task), "created")
    # Without defaults, so that a new field does not change the fingerprint of an old body.
    content = task.model_dump(exclude_defaults=True)
    fingerprint = digest(json.dumps(content, sort_keys=True, default=str))
    parameters = {
        **tasks.creation_values(caller, task),
        "key_hash": None if key is None else digest(key),
        "fingerprint": fingerprint,
    }
    [row] = session.write(_CREATE, parameters)
    known, existing, created = split(row, len(_Known._fields), WIDTH, WIDTH)
    if known[0] is not None:
        return Creation(_Known(*known).repeat(caller, task, fingerprint), "repeated")
    if created[0] is not None:
        return Creation(TaskRead(*created), "created")
    if existing[0] is None:
        raise QuotaReached
    found = TaskRead(*existing)
    if found.deleted_at is not None or _content(found) != _content(task):
        raise TaskExists(found.seq)
    return Creation(found, "existing")


def digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _content(task: TaskCreate | TaskRead) -> list[object]:
    return [getattr(task, name) for name in WRITABLE]


def _statement() -> Executable:
    """One row: what the key has made, the task with this ID, and the new task, each null unless it exists."""
    key_hash: ColumnElement[Any] = bindparam("key_hash", type_=LargeBinary)
    fingerprint: ColumnElement[Any] = bindparam("fingerprint", type_=LargeBinary)
    its_key = and_(
        KEYS.c.user_id == CALLER,
        KEYS.c.key_hash == key_hash,
        KEYS.c.created_at > func.now() - literal_column(KEPT),
    )
    known = [cast(KEYS.c.task_id, Text).label("task_id"), *(KEYS.c[name] for name in _Known._fields[1:])]
    made = (
        select(*known)
        .where(its_key)
        .order_by(KEYS.c.created_at.desc())
        .limit(literal_column("1"))
        .cte("made")
    )
    its_id = and_(TASKS.c.user_id == CALLER, TASKS.c.id == bindparam("task_id", type_=Uuid))
    existing = select(*COLUMNS).where(its_id).cte("existing")

    new = tasks.new_columns()
    is_new = [~exists(select(null()).select_from(each)) for each in (made, existing)]
    inserted = insert(TASKS).from_select([*new], select(*new.values()).where(*is_new))
    created = inserted.returning(*COLUMNS).cte("created")

    slot = cast(created.c.seq % literal_column(str(KEYS_PER_USER)), SmallInteger)
    key: list[ColumnElement[Any]] = [
        CALLER,
        slot,
        key_hash,
        fingerprint,
        cast(created.c.id, Uuid),
        created.c.created_at,
        created.c.seq,
        cast(null(), ARRAY(Text)),
        cast(null(), ARRAY(Uuid)),
    ]
    claim = upsert(KEYS).from_select(
        ["user_id", "slot", *_REPLACED], select(*key).where(key_hash.is_not(None))
    )
    replacing = {name: claim.excluded[name] for name in _REPLACED}
    claimed = claim.on_conflict_do_update(index_elements=["user_id", "slot"], set_=replacing).cte("claimed")

    columns = [*made.c, *existing.c, *created.c]
    one = select(literal_column("1")).subquery("one")
    outcome = one.outerjoin(made, true()).outerjoin(existing, true()).outerjoin(created, true())
    statement = select(*columns).select_from(outcome).add_cte(claimed)
    return statement.execution_options(prepare="create_task_once")


_REPLACED = ("key_hash", "fingerprint", "task_id", "created_at", "seq", "outcomes", "task_ids")
"""What a new key replaces in its slot."""

_CREATE = _statement()
