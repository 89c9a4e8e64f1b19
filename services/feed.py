"""The feed of a user: the position of each change, and how many live tasks there are.

Every write takes the next position of its user in the statement that makes the change, behind the
user's write lock (`UserSession.write`). Positions therefore become visible in order and without
gaps: who sees a position has seen everything before it. A write that finds no task neither makes
nor moves a feed. Source: specs/database/schema.md.
"""

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    Integer,
    Text,
    bindparam,
    cast,
    func,
    literal_column,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from models import FEEDS

CALLER: ColumnElement[str] = bindparam("caller", type_=Text)
"""The user of the request."""

_1: ColumnElement[int] = literal_column("1", Integer)

# Higher than any position of an earlier feed of the same user, which may have been deleted.
_FIRST = cast(func.floor(func.extract("epoch", func.clock_timestamp()) * literal_column("1000")), BigInteger)


def next_position(found: ColumnElement[bool], *, live_tasks: int = 0) -> CTE:
    """Move the feed if `found`. One row with the new `seq`, or none.

    `live_tasks` is by how much the number of tasks that are not deleted changes.
    """
    changes: dict[str, ColumnElement[int]] = {"seq": FEEDS.c.seq + _1}
    if live_tasks:
        changes["live_tasks"] = FEEDS.c.live_tasks + literal_column(str(live_tasks), Integer)
    moved = update(FEEDS).where(FEEDS.c.user_id == CALLER, found).values(changes)
    return moved.returning(FEEDS.c.seq).cte("position")


def first_or_next_position() -> CTE:
    """Move the feed for a new task, or make it. One row with the new `seq`, or none at the quota."""
    made = insert(FEEDS).values(user_id=CALLER, seq=_FIRST, live_tasks=_1)
    moved = made.on_conflict_do_update(
        index_elements=["user_id"],
        set_={"seq": FEEDS.c.seq + _1, "live_tasks": FEEDS.c.live_tasks + _1},
        where=FEEDS.c.live_tasks < bindparam("quota", type_=Integer),
    )
    return moved.returning(FEEDS.c.seq).cte("position")
