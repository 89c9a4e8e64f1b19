"""The operations on tasks: one SQL statement each, and the rules that it enforces.

    TaskNotFound         the user has no such task
    QuotaReached         the user has MAX_TASKS_PER_USER tasks that are not deleted
    PreconditionFailed   the task has changed since the state that the change expects

Statements are SQLAlchemy constructs, built once; values that differ between requests are
bound parameters. Every statement except the INSERT filters by `_visible`, the rows that the
caller may see, which excludes other users' tasks and deleted ones; a restore also sees deleted
ones. Writes go through `UserSession.write`; a trigger numbers each change in the feed of the user. No
HTTP here.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import cache
from itertools import islice
from typing import Any, NamedTuple
from uuid import UUID

from pydantic import MISSING
from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Executable,
    Integer,
    Text,
    Uuid,
    and_,
    bindparam,
    case,
    cast,
    func,
    insert,
    literal_column,
    null,
    or_,
    select,
    true,
    update,
)

from database.session import UserSession
from models import TASKS
from schemas import BatchCreate, TaskCreate, TaskRead, TaskReplace, TaskUpdate
from services.search import fold

if sys.version_info >= (3, 14):
    from uuid import uuid7
else:
    from uuid_utils.compat import uuid7


class TaskNotFound(LookupError):
    """The user has no such task, whether or not another user has one."""


class QuotaReached(Exception):
    """The user has MAX_TASKS_PER_USER tasks that are not deleted. The trigger ignored the row."""


class PreconditionFailed(Exception):
    """The task has changed since the state that the change expects. `seq` is its current position."""

    def __init__(self, seq: int) -> None:
        self.seq = seq


class Expected(NamedTuple):
    """The states of a task that a change may replace: at one of these positions, or of these versions."""

    positions: Sequence[int]
    versions: Sequence[int]

    def allows(self, task: TaskRead) -> bool:
        return task.seq in self.positions or task.version in self.versions


CALLER: ColumnElement[str] = bindparam("caller", type_=Text)
"""The user of the request."""

READABLE = tuple(field.name for field in fields(TaskRead))
"""The columns of a task in a response, in the order of `TaskRead`."""
WRITABLE = tuple(TaskReplace.model_fields)

# The ID as text, because psycopg2 would construct a UUID object for each row.
COLUMNS: list[ColumnElement[Any]] = [
    cast(TASKS.c.id, Text) if name == "id" else TASKS.c[name] for name in READABLE
]
WIDTH = len(COLUMNS)
_PREPARED = {1, len(WRITABLE)}
"""How many columns the updates change whose plans PostgreSQL keeps: one, or all of them."""
_SEARCHED = frozenset({"title", "description"})
"""The columns that have a folded copy, `search_<name>`."""

_POSITIONS: ColumnElement[Any] = bindparam("positions", type_=ARRAY(BigInteger))
# Wider than the column, because a client can name any number.
_VERSIONS: ColumnElement[Any] = bindparam("versions", type_=ARRAY(BigInteger))

_INTEGER_1: ColumnElement[int] = literal_column("1", Integer)

_visible = and_(
    TASKS.c.user_id == CALLER,
    TASKS.c.deleted_at.is_(None),
)
_expected = or_(TASKS.c.seq == func.any(_POSITIONS), TASKS.c.version == func.any(_VERSIONS))
_ANY_STATE: Mapping[str, object] = {"positions": None, "versions": None}
_this_task = and_(_visible, TASKS.c.id == bindparam("task_id", type_=Uuid))


def _new(name: str) -> ColumnElement[object]:
    """The column's new value, as a parameter."""
    return bindparam(f"new_{name}", type_=TASKS.c[name].type)


def new_values(task: TaskReplace | TaskUpdate, names: Iterable[str] = WRITABLE) -> dict[str, object]:
    """The values of these fields, and of their folded copies, as parameters."""
    values = {f"new_{name}": getattr(task, name) for name in names}
    for name in _SEARCHED.intersection(names):
        text = getattr(task, name)
        values[f"new_search_{name}"] = None if text is None else fold(text)
    return values


def with_folded(names: Iterable[str]) -> list[str]:
    """The columns to set when these are set."""
    return [*names, *(f"search_{name}" for name in sorted(_SEARCHED.intersection(names)))]


def split(row: Sequence[Any], *widths: int) -> Iterator[Sequence[Any]]:
    """The parts of a row that has the columns of several tables, by their numbers of columns."""
    values = iter(row)
    return (tuple(islice(values, width)) for width in widths)


def new_columns() -> dict[str, ColumnElement[Any]]:
    """The columns of a new task, with `creation_values` as their parameters."""
    return {
        "user_id": CALLER,
        "id": bindparam("task_id", type_=Uuid),
        "completed_at": case((_new("completed"), func.now())),
        "version": _INTEGER_1,
        **{name: _new(name) for name in with_folded(WRITABLE)},
    }


def creation_values(caller: str, task: TaskCreate) -> dict[str, object]:
    """The parameters of `new_columns`."""
    return {"caller": caller, "task_id": new_id(task), **new_values(task)}


def new_id(task: TaskCreate | BatchCreate) -> UUID:
    """The ID that the client has chosen, or a UUIDv7: ordered to the millisecond, strictly in a process."""
    return uuid7() if task.id is MISSING else task.id


_INSERT = insert(TASKS).values(new_columns()).returning(*COLUMNS).execution_options(prepare="create_task")
_SELECT = select(*COLUMNS).where(_this_task).execution_options(prepare="get_task")


@cache
def _update_statement(names: frozenset[str], conditional: bool) -> Executable:
    """The statement that sets these columns. At most 2⁷ are ever built, and 14 of them prepared."""
    # clock_timestamp(), not now(), which is the transaction's start: an update that waited
    # for the write lock would otherwise get an earlier time than the update it waited for.
    clock = func.clock_timestamp()
    changes = {name: _new(name) for name in with_folded(names)}
    changes |= {"version": TASKS.c.version + _INTEGER_1, "updated_at": clock}
    if "completed" in names:
        changes["completed_at"] = case((_new("completed"), func.coalesce(TASKS.c.completed_at, clock)))
    statement = _change(changes, COLUMNS, conditional)
    return statement.execution_options(prepare="update_task") if len(names) in _PREPARED else statement


@cache
def _delete_statement(conditional: bool) -> Executable:
    statement = _change({"deleted_at": func.clock_timestamp()}, [TASKS.c.seq], conditional)
    return statement.execution_options(prepare="delete_task")


def _change(
    changes: Mapping[str, ColumnElement[Any]],
    returned: Sequence[ColumnElement[Any]],
    conditional: bool,
) -> Executable:
    """Change the task. One row if there is the task.

    A conditional change only replaces an expected state. Its row begins with the position that it
    found, which tells a task in another state from one that does not exist.
    """
    changed = update(TASKS).where(_this_task).values(changes).returning(*returned)
    if not conditional:
        return changed
    outcome = changed.where(_expected).cte("changed")
    found = select(TASKS.c.seq).where(_this_task).cte("found")
    return select(found.c.seq, *outcome.c).select_from(found.outerjoin(outcome, true()))


@cache
def _restore_statement() -> Executable:
    """One row: the task as found, deleted or not, and then the restored task, or nulls."""
    any_task = and_(TASKS.c.user_id == CALLER, TASKS.c.id == bindparam("task_id", type_=Uuid))
    deleted = and_(any_task, TASKS.c.deleted_at.is_not(None), or_(_VERSIONS.is_(None), _expected))
    changes = {
        "deleted_at": null(),
        "version": TASKS.c.version + _INTEGER_1,
        "updated_at": func.clock_timestamp(),
    }
    found = select(*COLUMNS).where(any_task).cte("found")
    restored = update(TASKS).where(deleted).values(changes).returning(*COLUMNS).cte("restored")
    statement = select(*found.c, *restored.c).select_from(found.outerjoin(restored, true()))
    return statement.execution_options(prepare="restore_task")


def _changed(
    session: UserSession,
    statement: Executable,
    parameters: Mapping[str, object],
    expected: Expected | None,
) -> Sequence[Any]:
    """What the change returned. Raises TaskNotFound and PreconditionFailed."""
    if expected is not None:
        parameters = {**parameters, **expected._asdict()}
    rows = session.write(statement, parameters)
    if not rows:
        raise TaskNotFound
    if expected is None:
        return rows[0]
    seq, *row = rows[0]
    if row[0] is None:
        raise PreconditionFailed(seq)
    return row


def create_task(session: UserSession, caller: str, task: TaskCreate) -> TaskRead:
    """Store a new task. Raises QuotaReached."""
    rows = session.write(_INSERT, creation_values(caller, task))
    if not rows:
        raise QuotaReached
    return TaskRead(*rows[0])


def get_task(session: UserSession, caller: str, task_id: UUID) -> TaskRead:
    """The task as stored: the table's constraints make a second validation unnecessary.

    Raises TaskNotFound.
    """
    rows = session.rows(_SELECT, {"caller": caller, "task_id": task_id})
    if not rows:
        raise TaskNotFound
    return TaskRead(*rows[0])


def replace_task(
    session: UserSession, caller: str, task_id: UUID, task: TaskReplace, expected: Expected | None
) -> TaskRead:
    """Set every writable field, if the task is in an expected state or, with None, in any.

    Raises TaskNotFound and PreconditionFailed.
    """
    statement = _update_statement(frozenset(WRITABLE), expected is not None)
    parameters = {"caller": caller, "task_id": task_id, **new_values(task)}
    return TaskRead(*_changed(session, statement, parameters, expected))


def update_task(
    session: UserSession, caller: str, task_id: UUID, patch: TaskUpdate, expected: Expected | None
) -> TaskRead:
    """Set the fields that the patch names, like `replace_task`; an empty patch only reads."""
    names = frozenset(patch.model_fields_set)
    if not names:
        task = get_task(session, caller, task_id)
        if expected is not None and not expected.allows(task):
            raise PreconditionFailed(task.seq)
        return task
    parameters = {"caller": caller, "task_id": task_id, **new_values(patch, names)}
    statement = _update_statement(names, expected is not None)
    return TaskRead(*_changed(session, statement, parameters, expected))


def delete_task(session: UserSession, caller: str, task_id: UUID, expected: Expected | None) -> int:
    """Mark the task as deleted and keep its row; its position in the feed.

    Raises TaskNotFound and PreconditionFailed.
    """
    statement = _delete_statement(expected is not None)
    [seq] = _changed(session, statement, {"caller": caller, "task_id": task_id}, expected)
    return int(seq)


def restore_task(session: UserSession, caller: str, task_id: UUID, expected: Expected | None) -> TaskRead:
    """Bring a deleted task back; a task that is not deleted is left as it is.

    Raises TaskNotFound, PreconditionFailed, and QuotaReached like `create_task`.
    """
    states = _ANY_STATE if expected is None else expected._asdict()
    rows = session.write(_restore_statement(), {"caller": caller, "task_id": task_id, **states})
    if not rows:
        raise TaskNotFound
    found, restored = split(rows[0], WIDTH, WIDTH)
    task = TaskRead(*found)
    if expected is not None and not expected.allows(task):
        raise PreconditionFailed(task.seq)
    if task.deleted_at is None:
        return task
    if restored[0] is None:
        raise QuotaReached
    return TaskRead(*restored)
