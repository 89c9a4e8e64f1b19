"""The changes of a user's tasks in the order of their feed, for clients that keep a copy.

    SyncExpired    what has happened since the position can no longer be told

No HTTP here. Source: specs/api/rest-endpoints.md, `GET /api/tasks/changes`.
"""

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, Self

from sqlalchemy import BigInteger, Executable, Integer, bindparam, select, true

from database.session import UserSession
from models import FEEDS, TASKS
from schemas import TaskRead
from services.lists import SHORT_PAGE, without_excess
from services.tasks import CALLER, COLUMNS, WIDTH


class SyncExpired(Exception):
    """Tasks that were deleted after the position may have been purged, or it is of another feed."""


class Position(NamedTuple):
    """How far a client has followed the feed."""

    seq: int
    purged_seq: int | None = None
    """While the client reads everything for the first time: the feed's `purged_seq` when it began.

    It has not seen what was deleted before then, so only a later purge matters to it.
    """

    @classmethod
    def parse(cls, text: str) -> Self:
        """From a text that matches `schemas.POSITION_PATTERN`."""
        seq, _, purged_seq = text.partition("-")
        return cls(int(seq), int(purged_seq) if purged_seq else None)

    def __str__(self) -> str:
        return f"{self.seq}" if self.purged_seq is None else f"{self.seq}-{self.purged_seq}"


@dataclass(frozen=True)
class Changes:
    tasks: list[TaskRead]
    """In the order of their last changes."""
    _since: Position
    _feed: Position

    @property
    def is_empty(self) -> bool:
        """Whether the client has seen everything already, so that its position does not change."""
        return not self.tasks and self.position(0) == self._since

    def position(self, count: int) -> Position:
        """The position after the first `count` tasks; the end of the feed if these are all."""
        if count == len(self.tasks):
            return Position(self._feed.seq)
        began = self._feed.purged_seq if self._since.seq == 0 else self._since.purged_seq
        return Position(self.tasks[count - 1].seq, began)


def changes_since(session: UserSession, caller: str, since: Position, limit: int) -> Changes:
    """Up to `limit` of the caller's tasks, deleted or not, whose last change is after the position.

    Returns fewer if their descriptions exceed PAGE_BYTES, as `lists.list_tasks` does. Position 0
    is the beginning. Raises SyncExpired.
    """
    parameters = {"caller": caller, "since": since.seq, "limit": limit}
    rows = session.ordered_rows(_statement(limit > SHORT_PAGE), parameters)
    feed = Position(*rows[0][WIDTH:]) if rows else Position(0, 0)
    if _is_expired(since, feed):
        raise SyncExpired
    return Changes([TaskRead(*row[:WIDTH]) for row in rows if row[0] is not None], since, feed)


def _is_expired(since: Position, feed: Position) -> bool:
    if since.seq == 0:
        return False
    seen = since.seq if since.purged_seq is None else since.purged_seq
    return since.seq > feed.seq or seen < (feed.purged_seq or 0)


@cache
def _statement(bounded: bool) -> Executable:
    """The tasks, or one row without a task, each with the feed; nothing for a user without a feed."""
    since = bindparam("since", type_=BigInteger)
    tasks = select(*COLUMNS).where(TASKS.c.user_id == CALLER, TASKS.c.seq > since)
    tasks = tasks.order_by(TASKS.c.seq).limit(bindparam("limit", type_=Integer))
    page = (without_excess(tasks, [TASKS.c.seq]) if bounded else tasks).subquery("page")
    statement = select(*page.c, FEEDS.c.seq.label("feed"), FEEDS.c.purged_seq)
    statement = statement.select_from(FEEDS.outerjoin(page, true())).where(FEEDS.c.user_id == CALLER)
    return statement.execution_options(prepare="list_changes")
