"""The statements behind the operations on tasks, and the rules they carry.

    TaskNotFound     no such task for this user

Each function sends one statement. Statements are built once; what differs from
request to request is a bound parameter. Every one starts from `_visible`, what
a caller may see, so that another user's task and a deleted one do not exist.
No HTTP here.
"""

import sys
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from uuid import UUID

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Integer,
    Select,
    Text,
    UpdateBase,
    Uuid,
    and_,
    bindparam,
    case,
    cast,
    false,
    func,
    insert,
    literal_column,
    make_url,
    select,
    update,
)

from lanes import UserSession
from models import TASKS, TaskCreate, TaskRead, TaskReplace, TaskUpdate

if sys.version_info >= (3, 14):
    from uuid import uuid7
else:
    from uuid_utils.compat import uuid7


PAGE_BYTES = 256 * 1024
"""Of the JSON of a page, unless it has only one task."""

_SHORT_PAGE = 51
"""Rows that are read whatever their size: 1.3 MB at most."""


class TaskNotFound(LookupError):
    """There is no such task among the user's own, whether or not another user has one."""


# The id as text, because psycopg2 makes UUIDs in Python.
_COLUMNS: list[ColumnElement[object]] = [
    cast(TASKS.c.id, Text) if field.name == "id" else TASKS.c[field.name] for field in fields(TaskRead)
]
_WRITABLE = tuple(TaskReplace.model_fields)
_PSYCOPG2 = make_url("postgresql+psycopg2://").get_dialect()()

_ONE: ColumnElement[int] = literal_column("1", Integer)

# The description that crosses the limit can itself be 20,000 bytes.
_ENOUGH: ColumnElement[int] = literal_column(str(PAGE_BYTES + 20_000), Integer)

_visible = and_(
    TASKS.c.user_id == bindparam("caller", type_=Text),
    TASKS.c.deleted_at.is_(None),
)
_this_task = and_(_visible, TASKS.c.id == bindparam("task_id", type_=Uuid))


def _new(name: str) -> ColumnElement[object]:
    """The value that a request gives the column."""
    return bindparam(f"new_{name}", type_=TASKS.c[name].type)


def _values(task: TaskCreate | TaskReplace) -> dict[str, object]:
    return {f"new_{name}": getattr(task, name) for name in _WRITABLE}


def _sql(statement: Select[*tuple[object, ...]] | UpdateBase) -> str:
    """What psycopg2 takes; compiled once."""
    return str(statement.compile(dialect=_PSYCOPG2))


def _rows(session: UserSession, sql: str, parameters: Mapping[str, object]) -> list[TaskRead]:
    """The tasks as stored: what the constraints of the table let in needs no second check."""
    return [TaskRead(*row) for row in session.fetch(sql, parameters)]


def _one(session: UserSession, sql: str, parameters: Mapping[str, object]) -> TaskRead:
    found = _rows(session, sql, parameters)
    if not found:
        raise TaskNotFound
    return found[0]


_INSERT = _sql(
    insert(TASKS)
    .values(
        user_id=bindparam("caller", type_=Text),
        id=bindparam("task_id", type_=Uuid),
        completed_at=case((_new("completed"), func.now())),
        version=_ONE,
        **{name: _new(name) for name in _WRITABLE},
    )
    .returning(*_COLUMNS)
)
_SELECT = _sql(select(*_COLUMNS).where(_this_task))


@cache
def _list_statement(by_completed: bool, after_another: bool, bounded: bool) -> str:
    """One statement for each form, so that the planner sees no alternative."""
    statement: Select[*tuple[object, ...]] = select(*_COLUMNS).where(_visible)
    if by_completed:
        statement = statement.where(TASKS.c.completed == bindparam("completed", type_=Boolean))
    if after_another:
        statement = statement.where(TASKS.c.id < bindparam("after", type_=Uuid))
    statement = statement.order_by(TASKS.c.id.desc()).limit(bindparam("limit", type_=Integer))
    return _sql(_without_excess(statement) if bounded else statement)


def _without_excess(statement: Select[*tuple[object, ...]]) -> Select[*tuple[object, ...]]:
    """Drops the tasks after the one whose description takes the total past a page.

    Only they can make a page large: 20,000 bytes of a task's 25,000. A window function
    costs 0.6 µs a row, so short pages go without.
    """
    newest_first = TASKS.c.id.desc()
    length = func.sum(func.octet_length(TASKS.c.description)).over(order_by=newest_first, rows=(None, 0))
    page = statement.add_columns(TASKS.c.id.label("position"), length.label("length")).subquery("page")
    *columns, position, total = page.c
    fits = (total < _ENOUGH).is_not(false())
    return select(*columns).where(fits).order_by(position.desc())


@cache
def _update_statement(names: frozenset[str]) -> str:
    """The statement that sets these columns: one of 2⁶ at most."""
    # clock_timestamp, not now: a change that waited for another one's lock must
    # not bear the earlier time at which it began to wait.
    clock = func.clock_timestamp()
    changes = {name: _new(name) for name in names}
    changes |= {"version": TASKS.c.version + _ONE, "updated_at": clock}
    if "completed" in names:
        changes["completed_at"] = case((_new("completed"), func.coalesce(TASKS.c.completed_at, clock)))
    return _sql(update(TASKS).where(_this_task).values(changes).returning(*_COLUMNS))


_DELETE = _sql(
    update(TASKS).where(_this_task).values(deleted_at=func.clock_timestamp()).returning(TASKS.c.id)
)


def list_tasks(
    session: UserSession,
    caller: str,
    *,
    completed: bool | None,
    after: UUID | None,
    limit: int,
) -> list[TaskRead]:
    """Up to `limit` of the caller's tasks, newest first, that are older than `after`.

    Fewer when they have more than PAGE_BYTES; then the JSON of those that are
    returned has more than PAGE_BYTES as well, or there is only one.
    """
    statement = _list_statement(completed is not None, after is not None, limit > _SHORT_PAGE)
    parameters = {"caller": caller, "completed": completed, "after": after, "limit": limit}
    return _rows(session, statement, parameters)


def create_task(session: UserSession, caller: str, task: TaskCreate) -> TaskRead:
    """Store a new task. Ids grow with time: to the millisecond, and within one process strictly."""
    parameters = {"caller": caller, "task_id": uuid7(), **_values(task)}
    return _one(session, _INSERT, parameters)


def get_task(session: UserSession, caller: str, task_id: UUID) -> TaskRead:
    """Raises TaskNotFound."""
    return _one(session, _SELECT, {"caller": caller, "task_id": task_id})


def replace_task(session: UserSession, caller: str, task_id: UUID, task: TaskReplace) -> TaskRead:
    """Give every writable field a new value. Raises TaskNotFound."""
    parameters = {"caller": caller, "task_id": task_id, **_values(task)}
    return _one(session, _update_statement(frozenset(_WRITABLE)), parameters)


def update_task(session: UserSession, caller: str, task_id: UUID, patch: TaskUpdate) -> TaskRead:
    """Change what the patch names; an empty one only reads. Raises TaskNotFound."""
    names = frozenset(patch.model_fields_set)
    if not names:
        return get_task(session, caller, task_id)
    values = {f"new_{name}": getattr(patch, name) for name in names}
    parameters = {"caller": caller, "task_id": task_id, **values}
    return _one(session, _update_statement(names), parameters)


def delete_task(session: UserSession, caller: str, task_id: UUID) -> None:
    """Mark the task as deleted and keep its row. Raises TaskNotFound."""
    parameters = {"caller": caller, "task_id": task_id}
    if not session.fetch(_DELETE, parameters):
        raise TaskNotFound
