"""Requests that wait for the next change of their user's tasks.

    TooManyWaiting    the process has as many waiting requests as it may

A waiting request is a task of the event loop: it has no thread and no database connection. Writes
of the same process wake it at once. Those of other processes are found by one query a second for
all waiting requests. No HTTP here. Source: specs/api/rest-endpoints.md, `changes.wait`.
"""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import Context

from sqlalchemy import text

from database.session import UserSession
from db import Database

LOOK_SECONDS = 1.0
"""How often the process looks for changes that other processes have made."""

log = logging.getLogger(__name__)

_AHEAD = text(
    "SELECT given.user_id FROM unnest(CAST(:users AS text[]), CAST(:positions AS bigint[]))"
    " AS given (user_id, seq) LEFT JOIN feeds USING (user_id)"
    " WHERE coalesce(feeds.seq, 0) <> given.seq"
)


class TooManyWaiting(Exception):
    """The process has as many waiting requests as it may."""


class Place:
    """A request that waits for its user's feed to leave the position `seq`."""

    def __init__(self, seq: int) -> None:
        self.seq = seq
        self._woken = asyncio.Event()

    def wake(self) -> None:
        self._woken.set()

    async def news(self, seconds: float) -> bool:
        """Wait up to `seconds`; whether it has been woken since the last call."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        woken = self._woken.is_set()
        self._woken.clear()
        return woken


class WaitingRoom:
    """The waiting requests of a process, at most `most` of them."""

    def __init__(self, database: Database, most: int) -> None:
        self._database = database
        self._most = most
        self._count = 0
        self._places: dict[str, set[Place]] = {}
        self._looking: asyncio.Task[None] | None = None
        self.closed = False
        """Whether the process is about to stop, so that the requests that wait end."""
        database.after_write = self.wake

    def __len__(self) -> int:
        return self._count

    @contextmanager
    def place(self, user_id: str, seq: int) -> Iterator[Place]:
        """A place, which must be taken before the feed is read, so that no change goes unnoticed.

        Raises TooManyWaiting.
        """
        if self._count >= self._most:
            raise TooManyWaiting
        place = Place(seq)
        self._places.setdefault(user_id, set()).add(place)
        self._count += 1
        if self._looking is None:
            # In a context of its own: what it does belongs to no request.
            self._looking = asyncio.create_task(self._look_again_and_again(), context=Context())
        try:
            yield place
        finally:
            self._count -= 1
            self._places[user_id].discard(place)
            if not self._places[user_id]:
                del self._places[user_id]
            if not self._places:
                self._stop_looking()

    def wake(self, user_id: str) -> None:
        """Wake the requests of this user."""
        for place in self._places.get(user_id, ()):
            place.wake()

    def end(self) -> None:
        """End the requests that wait, because the process is about to stop."""
        self.closed = True
        for user_id in self._places:
            self.wake(user_id)

    async def close(self) -> None:
        self.end()
        self._stop_looking()

    def _stop_looking(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None

    async def _look_again_and_again(self) -> None:
        """Until it is cancelled. Requests report a database that does not answer themselves."""
        seen = True
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self._look()
                seen = True
            except Exception as error:
                if seen:
                    log.warning("Changes of other processes are not seen: %s", type(error).__name__)
                seen = False

    async def _look(self) -> None:
        pairs = {(user_id, place.seq) for user_id, places in self._places.items() for place in places}
        users, positions = [user for user, _ in pairs], [seq for _, seq in pairs]
        for user_id in await self._database.run("", feeds_ahead, users, positions):
            self.wake(user_id)


def feeds_ahead(session: UserSession, _: str, users: list[str], positions: list[int]) -> list[str]:
    """Those of the users whose feed is not at the position that belongs to it, or is gone."""
    rows = session.watched_rows(_AHEAD, {"users": users, "positions": positions})
    return [user_id for (user_id,) in rows]
