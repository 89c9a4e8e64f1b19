"""The list of tasks: its filters, its orders, and the statement that reads one page.

A filter is an entry of `FILTERS` and a field of `TaskFilter`; an order is an entry of `ORDERS`
and an index. Everything else follows from them: the parameter, its validation and its text in
OpenAPI, the SQL, and what a cursor is bound to. No HTTP here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    ColumnElement,
    DateTime,
    Integer,
    Select,
    Text,
    Uuid,
    bindparam,
    cast,
    false,
    func,
    literal_column,
    select,
    true,
    tuple_,
    union_all,
)
from sqlalchemy.types import TypeEngine

from database.session import UserSession
from models import FEEDS, PRIORITY_RANK, TASKS
from schemas import TaskFilter, TaskRead
from services.search import fold, pattern
from services.tasks import CALLER, COLUMNS, WIDTH

PAGE_BYTES = 256 * 1024
"""Maximum size of the JSON of a page, unless it has only one task."""

MAXIMUM_KEY = 253_402_300_800_000_000
"""The end of the year 9999 in microseconds. The sort key of a position is lower."""

SHORT_PAGE = 51
"""Pages of up to this many rows are read without a size limit: at most 1.3 MB."""

_STATEMENTS = 512
"""How many combinations of filters and order are kept compiled."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# The description that crosses the limit can itself have 20,000 bytes.
_PAGE_AND_ONE_TASK: ColumnElement[int] = literal_column(str(PAGE_BYTES + 20_000), Integer)

Statement = Select[*tuple[object, ...]]


class Position(NamedTuple):
    """Where a page ends: the sort key of its last task, and its ID. `key` is None without a due date."""

    key: int | None
    id: UUID


def _value(name: str, kind: TypeEngine[Any]) -> ColumnElement[Any]:
    return bindparam(f"filter_{name}", type_=kind)


_texts = ARRAY(Text)
_instant = DateTime(timezone=True)

# Tasks that the previous version wrote during a release have no folded text.
_searched = (
    func.coalesce(TASKS.c.search_title, func.lower(TASKS.c.title))
    .concat(literal_column("E'\\n'", Text))
    .concat(
        func.coalesce(TASKS.c.search_description, func.lower(TASKS.c.description), literal_column("''", Text))
    )
)

FILTERS: Mapping[str, ColumnElement[bool]] = {
    "completed": TASKS.c.completed == _value("completed", Boolean()),
    "priority": TASKS.c.priority == func.any(_value("priority", _texts)),
    "tag": TASKS.c.tags.bool_op("@>")(_value("tag", _texts)),
    "any_tag": TASKS.c.tags.bool_op("&&")(_value("any_tag", _texts)),
    "due": TASKS.c.due_at.is_(None) == _value("due", Boolean()),
    "due_from": TASKS.c.due_at >= _value("due_from", _instant),
    "due_before": TASKS.c.due_at < _value("due_before", _instant),
    "created_from": TASKS.c.created_at >= _value("created_from", _instant),
    "created_before": TASKS.c.created_at < _value("created_before", _instant),
    "updated_from": TASKS.c.updated_at >= _value("updated_from", _instant),
    "updated_before": TASKS.c.updated_at < _value("updated_before", _instant),
    "q": _searched.like(func.all(_value("q", _texts))),
}
"""The condition of each filter, by the name of its parameter."""

_TO_SQL: Mapping[str, Callable[[Any], object]] = {
    "priority": list,
    "tag": list,
    "any_tag": list,
    "due": lambda due: due == "none",
    "q": lambda text: [pattern(word) for word in fold(text).split() or [text]],
}


@dataclass(frozen=True)
class Part:
    """Tasks that one index scan returns in order: by these columns, if they meet the condition."""

    columns: tuple[ColumnElement[Any], ...]
    condition: ColumnElement[bool] | None = None
    constant: int = 0
    """How many of the first columns are equal in all of these tasks. They are part of the order all the
    same: PostgreSQL does not infer from IS NULL that an index is in the order of its later columns."""

    @property
    def compared(self) -> tuple[ColumnElement[Any], ...]:
        """The columns that determine whether a task is after a position."""
        return self.columns[self.constant :]


@dataclass(frozen=True)
class Order:
    """An order of the list, in one or more parts that follow each other, in both directions."""

    parts: tuple[Part, ...]
    key: Callable[[TaskRead], int | None]
    """The sort key of a task."""
    to_sql: Callable[[int], object] = int
    """The value of the first column for a sort key."""


def microseconds(time: datetime) -> int:
    return (time - _EPOCH) // timedelta(microseconds=1)


def _to_time(key: int) -> datetime:
    return _EPOCH + timedelta(microseconds=key)


_RANKS = {"low": 1, "medium": 2, "high": 3}

ORDERS: Mapping[str, Order] = {
    "created": Order(
        (Part((TASKS.c.created_at, TASKS.c.id)),), lambda task: microseconds(task.created_at), _to_time
    ),
    "due": Order(
        (
            Part((TASKS.c.due_at, TASKS.c.id), TASKS.c.due_at.is_not(None)),
            Part((TASKS.c.due_at, TASKS.c.id), TASKS.c.due_at.is_(None), constant=1),
        ),
        lambda task: None if task.due_at is None else microseconds(task.due_at),
        _to_time,
    ),
    "priority": Order(
        (Part((literal_column(f"({PRIORITY_RANK})", BigInteger), TASKS.c.id)),),
        lambda task: _RANKS[task.priority],
    ),
    "updated": Order((Part((TASKS.c.seq,)),), lambda task: task.seq),
}
"""By the name of the parameter's value; each also exists descending, with a minus sign."""


@dataclass(frozen=True)
class Page:
    tasks: list[TaskRead]
    feed: int
    """A number that changes when the page may change; 0 for a user without a feed."""
    _order: Order

    def position(self, count: int) -> Position:
        """The position after the first `count` tasks."""
        task = self.tasks[count - 1]
        return Position(self._order.key(task), UUID(task.id))


def list_tasks(
    session: UserSession,
    caller: str,
    *,
    where: TaskFilter,
    sort: str,
    after: Position | None,
    limit: int,
    known: Sequence[int] = (),
) -> Page:
    """Up to `limit` of the caller's tasks that match, in this order, after the position `after`.

    Returns fewer if their descriptions exceed PAGE_BYTES. The JSON of the returned tasks
    then also exceeds PAGE_BYTES, so the caller still has to cut the page. Reads no tasks if the feed
    is at one of the positions `known`.
    """
    order, filters = ORDERS[sort.removeprefix("-")], where.given
    parts = _parts(order, filters, after)
    shape = _Shape(sort, parts, frozenset(filters), after is not None, limit > SHORT_PAGE, bool(known))
    values = {f"filter_{name}": _TO_SQL.get(name, _as_is)(value) for name, value in filters.items()}
    parameters = {"caller": caller, "limit": limit, "known": list(known), **_after(order, after), **values}
    rows = session.ordered_rows(_statement(shape), parameters)
    feed: int = rows[0][-1] if rows else 0
    return Page([TaskRead(*row[:-1]) for row in rows if row[0] is not None], feed, order)


def _as_is(value: object) -> object:
    return value


def _parts(order: Order, filters: Mapping[str, object], after: Position | None) -> tuple[int, ...]:
    """The parts of the order that can have tasks of this page."""
    if len(order.parts) == 1:
        return (0,)
    if filters.get("due") == "none":
        return (1,)
    if filters.keys() & {"due", "due_from", "due_before"}:
        return (0,)
    return (0, 1) if after is None or after.key is not None else (1,)


def _after(order: Order, after: Position | None) -> dict[str, object]:
    if after is None:
        return {}
    key = None if after.key is None else order.to_sql(after.key)
    return {"after_id": after.id, "after_key": key}


class _Shape(NamedTuple):
    """What the text of a statement depends on; the rest are parameters."""

    sort: str
    parts: tuple[int, ...]
    filters: frozenset[str]
    continued: bool
    bounded: bool
    conditional: bool

    @property
    def common(self) -> bool:
        """Whether PostgreSQL keeps the plan; of some 40 shapes."""
        return self.filters <= {"completed"} and not self.bounded and not self.conditional

    @property
    def descending(self) -> bool:
        return self.sort.startswith("-")


@lru_cache(_STATEMENTS)
def _statement(shape: _Shape) -> Statement:
    """A statement for each shape, so that the planner sees no optional conditions.

    Returns the tasks of the page, or one row without a task, each with the position of the feed.
    Returns nothing for a user without a feed, who has never had a task.
    """
    page = _page(shape).subquery("page")
    feed = FEEDS.outerjoin(page, true())
    statement = select(*page.c, _state(shape).label("feed")).select_from(feed)
    statement = statement.where(FEEDS.c.user_id == CALLER)
    return statement.execution_options(prepare="list_tasks") if shape.common else statement


def _state(shape: _Shape) -> ColumnElement[int]:
    """A number that changes with everything that can change the list.

    A purge changes the trash, but is no change of a task. Both numbers only grow, so equal sums
    have equal parts.
    """
    return FEEDS.c.seq + FEEDS.c.purged_seq if "deleted" in shape.filters else FEEDS.c.seq


def _page(shape: _Shape) -> Statement:
    """Only the first part continues after a position. A second part fills what the first one has
    left of the page; the results follow each other without a sort.
    """
    limit = bindparam("limit", type_=Integer)
    chosen = [ORDERS[shape.sort.removeprefix("-")].parts[index] for index in shape.parts]
    first = _scan(chosen[0], shape, limit)
    if len(chosen) == 1:
        return first
    page = first.cte("first")
    left = limit - select(func.count()).select_from(page).scalar_subquery()
    rest = _scan(chosen[1], shape._replace(continued=False), left)
    return select(union_all(select(*page.c), select(*rest.subquery().c)).subquery())


def _scan(part: Part, shape: _Shape, limit: ColumnElement[int]) -> Statement:
    live = TASKS.c.deleted_at.is_not(None) if "deleted" in shape.filters else TASKS.c.deleted_at.is_(None)
    statement: Statement = select(*COLUMNS).where(TASKS.c.user_id == CALLER, live)
    statement = statement.where(*(FILTERS[name] for name in sorted(shape.filters - {"deleted"})))
    if part.condition is not None:
        statement = statement.where(part.condition)
    if shape.conditional:
        known = bindparam("known", type_=ARRAY(BigInteger))
        feed = select(_state(shape)).where(FEEDS.c.user_id == CALLER).correlate(None).scalar_subquery()
        statement = statement.where(feed != func.all(known))
    if shape.continued:
        here, after = tuple_(*part.compared), tuple_(*_position(part))
        statement = statement.where(here < after if shape.descending else here > after)
    keys = [column.desc() if shape.descending else column.asc() for column in part.columns]
    statement = statement.order_by(*keys).limit(limit)
    return without_excess(statement, part.columns, shape.descending) if shape.bounded else statement


def _position(part: Part) -> list[ColumnElement[Any]]:
    """The values of the part's columns at the position after which the page begins.

    The cast keeps PostgreSQL from deriving a narrower type: a forged cursor can have any key.
    """
    return [
        bindparam("after_id", type_=Uuid)
        if column is TASKS.c.id
        else cast(bindparam("after_key", type_=column.type), column.type)
        for column in part.compared
    ]


def without_excess(
    statement: Statement, columns: Sequence[ColumnElement[Any]], descending: bool = False
) -> Statement:
    """Drop the tasks after the one whose description pushes the running total over PAGE_BYTES.

    Only descriptions can make a page large: 20,000 of a task's 25,000 bytes. A window
    function costs 0.6 µs per row, so short pages do not use it.
    """

    def ordered(keys: Sequence[ColumnElement[Any]]) -> list[ColumnElement[Any]]:
        return [key.desc() if descending else key.asc() for key in keys]

    length = func.sum(func.octet_length(TASKS.c.description)).over(order_by=ordered(columns), rows=(None, 0))
    keys = [column.label(f"key_{number}") for number, column in enumerate(columns)]
    page = statement.add_columns(*keys, length.label("length")).subquery("page")
    selected = [*page.c][:WIDTH]
    fits = (page.c.length < _PAGE_AND_ONE_TASK).is_not(false())
    return select(*selected).where(fits).order_by(*ordered([page.c[key.name] for key in keys]))
