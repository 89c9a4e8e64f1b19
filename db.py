"""The engine, the pool of connections, and whether the database can be served from.

    PoolExhausted     no connection within the time a request may wait
    Unanswered        no answer from the database within the time it may take
    NotReady          the database is absent, or not fit to serve from

No SQL about tasks belongs here.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy import URL, Engine, NullPool, create_engine
from sqlalchemy.exc import DBAPIError

from lanes import ROLE, Lane, UserSession, sqlstate
from settings import DatabaseSettings, Settings

SCHEMA_REVISION = "0001"
"""The migration that this version needs; a later one is fine, see schema.revision."""

READINESS_SECONDS = 1.0
"""How long an answer about readiness is good, so that asking costs nobody a connection."""

NOT_MIGRATED = {"42P01", "42703", "42501", "22023"}
"""SQLSTATEs of a schema that is absent or older: no such table, column, grant, or role."""

# row_security_active answers for the role that asks, which is the dropped one.
_READINESS = "SELECT current_user, row_security_active('tasks'), (SELECT version_num FROM alembic_version)"

GRACE_SECONDS = 1.0
"""How much longer than its server a request waits: a full pooler holds statements back unseen."""

P = ParamSpec("P")
T = TypeVar("T")


class PoolExhausted(Exception):
    """Every connection stayed busy for as long as a request may wait."""


class Unanswered(Exception):
    """The database did not answer in time; whether it made a change is not known."""


class NotReady(Exception):
    """The database must not be served from; the message says why, without secrets."""


def connect(url: URL, settings: DatabaseSettings) -> Engine:
    """An engine on `url`, without a pool, in autocommit.

    Only libpq's own options are used: a transaction-mode pooler refuses
    start-up parameters. Keepalives and the user timeout end a connection whose
    server vanished without a word after some 20 seconds.
    """
    return create_engine(
        url,
        poolclass=NullPool,
        isolation_level="AUTOCOMMIT",
        use_native_hstore=False,
        hide_parameters=True,
        connect_args={
            "application_name": "tasks-api",
            "connect_timeout": settings.db_connect_timeout,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 2,
            "tcp_user_timeout": 20_000,
        },
    )


class Database:
    """As many lanes as DB_POOL_SIZE, of which the one that was used last is used first."""

    def __init__(self, settings: Settings) -> None:
        self._engine = connect(settings.database_url, settings)
        self._statement_timeout = settings.db_statement_timeout
        self._lanes: list[Lane] = []
        self._idle: list[Lane] = []
        self._slots = asyncio.Semaphore(settings.db_pool_size)
        self._patience = settings.db_pool_timeout
        self._deadline = settings.db_connect_timeout + settings.db_statement_timeout + GRACE_SECONDS
        self._readiness = asyncio.Lock()
        self._readiness_expires = 0.0
        self._unready: str | None = None

    async def run(
        self,
        user_id: str,
        work: Callable[Concatenate[UserSession, str, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Call `work(session, user_id, …)` in a thread, in the scope of that user.

        What `work` writes is committed statement by statement, so it is durable
        when this returns. Work that has begun is finished even when the caller
        goes away, and holds its connection until then.

        Raises PoolExhausted when no connection came free in time, Unanswered when
        the work took longer than it may, and whatever `work` raises.
        """
        await self._take_slot()
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[T] = loop.create_future()
        lane = self._idle_lane()
        lane.submit(user_id, lambda session: work(session, user_id, *args, **kwargs), outcome, self._return)
        deadline = loop.call_later(self._deadline, _give_up, outcome)
        try:
            return await outcome
        finally:
            deadline.cancel()

    async def check_ready(self) -> None:
        """Raise NotReady unless the database can be served from; see health.ready.

        Callers that come together share one answer.
        """
        async with self._readiness:
            if time.monotonic() >= self._readiness_expires:
                self._unready = await self._find_fault()
                self._readiness_expires = time.monotonic() + READINESS_SECONDS
        if self._unready is not None:
            raise NotReady(self._unready)

    async def close(self) -> None:
        """Let running work finish, then close the connections."""
        for lane in self._lanes:
            await asyncio.to_thread(lane.close)

    async def _take_slot(self) -> None:
        if not self._slots.locked():
            await self._slots.acquire()
            return
        try:
            async with asyncio.timeout(self._patience):
                await self._slots.acquire()
        except TimeoutError:
            raise PoolExhausted from None

    def _idle_lane(self) -> Lane:
        """For the slot that was taken, which is given back when no thread can be started."""
        if self._idle:
            return self._idle.pop()
        try:
            lane = Lane(self._engine, self._statement_timeout)
        except RuntimeError:
            self._slots.release()
            raise
        self._lanes.append(lane)
        return lane

    def _return(self, lane: Lane) -> None:
        self._idle.append(lane)
        self._slots.release()

    async def _find_fault(self) -> str | None:
        try:
            role, guarded, revision = await self.run("", _read_readiness)
        except DBAPIError as error:
            return (
                "The schema is not migrated."
                if sqlstate(error) in NOT_MIGRATED
                else "The database does not answer."
            )
        except PoolExhausted:
            return "The database is overloaded."
        except Unanswered:
            return "The database does not answer."
        if revision is None or revision < SCHEMA_REVISION:
            return "The schema is not migrated."
        if role != ROLE or not guarded:
            return "Row security is not active."
        return None


def _give_up(outcome: asyncio.Future[T]) -> None:
    if not outcome.done():
        outcome.set_exception(Unanswered())


def _read_readiness(session: UserSession, _: str) -> tuple[str, bool, str | None]:
    [row] = session.fetch(_READINESS, {})
    return row
