"""The database engine, the connection pool and the readiness check.

    PoolExhausted      no connection became free within DB_POOL_TIMEOUT
    DatabaseTimeout    no answer from the database by the deadline
    NotReady           the database is unreachable, or must not be used

This module must not contain SQL about tasks.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Concatenate, ParamSpec, TypeVar
from weakref import WeakValueDictionary

from fastapi import Depends
from sqlalchemy import URL, Engine, NullPool, create_engine, event, text
from sqlalchemy.exc import DBAPIError
from starlette.requests import Request

from database.session import ROLE, UserSession, sqlstate
from database.worker import ConnectionWorker, adopt_connection
from observability.tracing import DatabaseCall
from settings import DatabaseSettings, Settings

log = logging.getLogger(__name__)

_MIGRATIONS = Path(__file__).parent / "migrations" / "versions"

SCHEMA_REVISION = max(path.name[:4] for path in _MIGRATIONS.glob("[0-9]*.py"))
"""The newest migration of this version. The database may have a later one: see schema.revision."""

READINESS_SECONDS = 1.0
"""How long a readiness result is cached, in seconds."""

NOT_MIGRATED = {"42P01", "42703", "42883", "22023"}
"""SQLSTATEs of a missing or outdated schema: undefined table, column or function, invalid role."""

INSUFFICIENT_PRIVILEGE = "42501"
"""A missing grant or a row-security violation. The readiness check treats it as a schema that is
not migrated; on a request it is a bug or an attack."""

# row_security_active() checks the current role, which UserSession has set to the unprivileged one.
_READINESS = text(
    "SELECT current_user, row_security_active('tasks') AND row_security_active('feeds')"
    " AND row_security_active('idempotency_keys'),"
    " (SELECT version_num FROM alembic_version)"
)

ABANDON_SECONDS = 1.0
"""How long a thread may take to return after its connection was shut down, in seconds."""

GRACE_SECONDS = 1.0
"""Added to the server-side timeouts for the request's deadline: a full pooler queues statements,
and statement_timeout does not run while they wait."""

P = ParamSpec("P")
T = TypeVar("T")


class PoolExhausted(Exception):
    """All connections stayed busy for DB_POOL_TIMEOUT."""


class DatabaseTimeout(TimeoutError):
    """The database did not answer by the deadline; a write may or may not have been committed."""


class NotReady(Exception):
    """The database must not be used. The message gives the reason and contains no secrets."""


def connect(url: URL, settings: DatabaseSettings) -> Engine:
    """An engine for `url` without a pool, in autocommit mode.

    Uses client-side libpq options only, because transaction-mode poolers reject start-up
    parameters. Keepalives and tcp_user_timeout close a connection about 20 s after its
    server became unreachable.
    """
    engine = create_engine(
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
    event.listen(engine, "connect", adopt_connection, insert=True)
    return engine


class Turns:
    """At most `size` connections for a user at a time. A request waits for its turn."""

    def __init__(self, size: int) -> None:
        self._size = size
        # A semaphore exists as long as a request waits for it or occupies a connection.
        self._users: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    def of(self, user_id: str) -> asyncio.Semaphore:
        return self._users.setdefault(user_id, asyncio.Semaphore(self._size))


class Database:
    """A LIFO pool of DB_POOL_SIZE connection workers (threads with a connection each).

    A worker that misses its deadline is interrupted: its connection is shut down, which
    makes the worker available again within milliseconds. A worker that does not return even
    then (it hangs in name resolution, or in libpq while connecting) is abandoned after
    ABANDON_SECONDS: a new worker replaces it, and its thread ends once the call returns. At
    most DB_POOL_SIZE workers are abandoned at a time.
    """

    def __init__(self, settings: Settings) -> None:
        self._engine = connect(settings.database_url, settings)
        self._statement_timeout = settings.db_statement_timeout
        self._max_tasks = settings.max_tasks_per_user
        self._size = settings.db_pool_size
        self._workers: set[ConnectionWorker] = set()
        self._idle: list[ConnectionWorker] = []
        self._abandoned: set[ConnectionWorker] = set()
        self._stuck: set[ConnectionWorker] = set()
        self._timers: dict[ConnectionWorker, asyncio.TimerHandle] = {}
        self._slots = asyncio.Semaphore(settings.db_pool_size)
        self._turns: dict[ConnectionWorker, asyncio.Semaphore] = {}
        self._reads = Turns(max(1, settings.db_pool_size // 2))
        self._writes = Turns(1)
        self._pool_timeout = settings.db_pool_timeout
        self._deadline = settings.db_connect_timeout + settings.db_statement_timeout + GRACE_SECONDS
        self.after_write: Callable[[str], None] = _nothing
        """Called with the user after each of their writes."""
        self._readiness: asyncio.Task[str | None] | None = None
        self._readiness_expires = 0.0

    async def run(
        self,
        user_id: str,
        work: Callable[Concatenate[UserSession, str, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Call `work(session, user_id, …)` in a worker thread, scoped to that user.

        The reads of a user occupy at most half of the connections, or one if there is only one.
        Work that has started runs to completion or to its deadline even if the caller is
        cancelled, and keeps its connection until then.

        Raises PoolExhausted if the turn does not come, or no connection becomes free, in time,
        DatabaseTimeout if the work missed its deadline, and any exception that `work` raises.
        """
        return await self._run(self._reads.of(user_id), user_id, work, *args, **kwargs)

    async def write(
        self,
        user_id: str,
        work: Callable[Concatenate[UserSession, str, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Like `run`, for writes: one at a time for each user.

        Each statement is committed on its own, so that its changes are durable when this returns.
        Writes of a user wait for each other in the database in any case. Waiting here keeps a
        burst of one user from occupying every connection.
        """
        result = await self._run(self._writes.of(user_id), user_id, work, *args, **kwargs)
        self.after_write(user_id)
        return result

    async def _run(
        self,
        turn: asyncio.Semaphore,
        user_id: str,
        work: Callable[Concatenate[UserSession, str, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + self._pool_timeout
        await self._acquire(turn, ends_at)
        with DatabaseCall(getattr(work, "__name__", "statement")) as call:
            try:
                await self._acquire(self._slots, ends_at)
                worker = self._idle_worker()
            except BaseException:
                turn.release()
                raise
            self._turns[worker] = turn
            outcome: asyncio.Future[T] = loop.create_future()
            call.runs_on(worker)
            self._timers[worker] = loop.call_later(self._deadline, self._interrupt, worker, outcome)
            worker.submit(
                user_id, lambda session: work(session, user_id, *args, **kwargs), outcome, self._return
            )
            return await outcome

    async def check_ready(self) -> None:
        """Raise NotReady unless the service can use the database (health.ready).

        Concurrent callers share one shielded check, so clients that disconnect cannot
        accumulate hanging checks.
        """
        if self._readiness is None or (
            self._readiness.done() and time.monotonic() >= self._readiness_expires
        ):
            self._readiness = asyncio.create_task(self._check_readiness())
        fault = await asyncio.shield(self._readiness)
        if fault is not None:
            raise NotReady(fault)

    def is_stuck(self) -> bool:
        """Whether every connection slot is held by a thread that does not return.

        Only a restart of the process helps. An unreachable database alone does not cause
        this: threads that wait for it return by their deadline.
        """
        return len(self._stuck) >= self._size

    async def close(self) -> None:
        """Wait for running work, up to its deadline, then close the connections."""
        for worker in self._workers:
            worker.stop()
        ends_at = time.monotonic() + self._deadline + ABANDON_SECONDS
        for worker in [*self._workers]:
            await asyncio.to_thread(worker.join, max(0.0, ends_at - time.monotonic()))

    async def _acquire(self, semaphore: asyncio.Semaphore, ends_at: float) -> None:
        if not semaphore.locked():
            await semaphore.acquire()
            return
        try:
            async with asyncio.timeout_at(ends_at):
                await semaphore.acquire()
        except TimeoutError:
            raise PoolExhausted from None

    def _idle_worker(self) -> ConnectionWorker:
        """A worker for the slot taken by the caller; releases the slot if no thread can be started."""
        if self._idle:
            return self._idle.pop()
        try:
            worker = ConnectionWorker(self._engine, self._statement_timeout, self._max_tasks)
        except RuntimeError:
            self._slots.release()
            raise
        self._workers.add(worker)
        return worker

    def _return(self, worker: ConnectionWorker) -> None:
        self._timers.pop(worker).cancel()
        if worker in self._abandoned:
            self._abandoned.discard(worker)
            worker.stop()
            return
        self._turns.pop(worker).release()
        self._stuck.discard(worker)
        self._idle.append(worker)
        self._slots.release()

    def _interrupt(self, worker: ConnectionWorker, outcome: asyncio.Future[T]) -> None:
        """Handle a missed deadline: fail the caller's future and interrupt the worker."""
        log.warning("Database connection closed: no answer within %g s", self._deadline)
        if not outcome.done():
            outcome.set_exception(DatabaseTimeout())
        worker.interrupt()
        self._abandon_later(worker)

    def _abandon_later(self, worker: ConnectionWorker) -> None:
        loop = asyncio.get_running_loop()
        self._timers[worker] = loop.call_later(ABANDON_SECONDS, self._abandon, worker)

    def _abandon(self, worker: ConnectionWorker) -> None:
        """Replace a worker that did not return, unless DB_POOL_SIZE workers are already abandoned."""
        if len(self._abandoned) >= self._size:
            if worker not in self._stuck:
                log.error("Database thread stuck: %d threads already abandoned", self._size)
            self._stuck.add(worker)
            self._abandon_later(worker)
            return
        log.error("Database thread abandoned: it does not return from libpq")
        self._stuck.discard(worker)
        self._workers.discard(worker)
        self._abandoned.add(worker)
        self._turns.pop(worker).release()
        self._slots.release()

    async def _check_readiness(self) -> str | None:
        try:
            return await self._find_fault()
        finally:
            self._readiness_expires = time.monotonic() + READINESS_SECONDS

    async def _find_fault(self) -> str | None:
        try:
            role, guarded, revision = await self.run("", _read_readiness)
        except DBAPIError as error:
            return (
                "The schema is not migrated."
                if sqlstate(error) in {*NOT_MIGRATED, INSUFFICIENT_PRIVILEGE}
                else "The database does not answer."
            )
        except PoolExhausted:
            return "The database is overloaded."
        except DatabaseTimeout:
            return "The database does not answer."
        if revision is None or revision < SCHEMA_REVISION:
            return "The schema is not migrated."
        if role != ROLE or not guarded:
            return "Row security is not active."
        return None


async def get_database(request: Request) -> Database:
    """Dependency. It is async because FastAPI runs sync dependencies in a thread pool."""
    database: Database = request.app.state.database
    return database


RequestDatabase = Annotated[Database, Depends(get_database)]
"""For the parameter `database` of an operation."""


def _nothing(_: str) -> None:
    """Nobody waits for writes."""


def _read_readiness(session: UserSession, _: str) -> tuple[str, bool, str | None]:
    [(role, guarded, revision)] = session.rows(_READINESS, {})
    return role, guarded, revision
