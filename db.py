"""The engine, the connections, and the scope in which every statement runs.

    PoolExhausted     no connection within the time a request may wait
    Unanswered        no answer from the database within the time it may take
    NotReady          the database is absent, or not fit to serve from

One database round trip per request: psycopg2 speaks the simple query protocol,
so the scope (role, user, deadline) and the one statement of the work travel in
one message, which PostgreSQL runs as one transaction and PgBouncer hands to one
server. Connections are in autocommit, so nothing precedes and nothing follows.
No SQL about tasks belongs here.
"""

import asyncio
import select
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event, text
from sqlalchemy.engine.interfaces import DBAPICursor, ExecutionContext
from sqlalchemy.exc import DBAPIError
from sqlmodel import Session

from settings import DatabaseSettings, Settings

ROLE = "tasks_api"
"""Under which every request runs: it owns nothing and cannot bypass row security."""

SCHEMA_REVISION = "0001"
"""The migration that this version needs; a later one is fine, see schema.revision."""

READINESS_SECONDS = 1.0
"""How long an answer about readiness is good, so that asking costs nobody a connection."""

NOT_MIGRATED = {"42P01", "42703", "42501", "22023"}
"""SQLSTATEs of a schema that is absent or older: no such table, column, grant, or role."""

READ_ONLY = "25006"

# TimeZone, because psycopg2 cannot read year 9999 in a zone where it is 10000.
_SCOPE = (
    f"SELECT set_config('role', '{ROLE}', true),"
    " set_config('app.user_id', %(scope_user_id)s, true),"
    " set_config('statement_timeout', %(scope_timeout)s, true),"
    " set_config('TimeZone', 'UTC', true);\n"
)

# row_security_active answers for the role that asks, which is the dropped one.
_READINESS = text(
    "SELECT current_user AS role, row_security_active('tasks') AS guarded,"
    " (SELECT version_num FROM alembic_version) AS revision"
)

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


def sqlstate(error: DBAPIError) -> str | None:
    """PostgreSQL's code for the error, or None when the server did not send one."""
    code = getattr(error.orig, "pgcode", None)
    return code if isinstance(code, str) else None


class _Lane(threading.local):
    """What one thread of the pool has: a connection, a session on it, and the user it works for now."""

    connection: Connection | None = None
    session: Session
    poll: select.poll
    user_id: str = ""

    def keep(self, connection: Connection) -> None:
        driver = connection.connection.driver_connection
        assert driver is not None
        self.poll = select.poll()
        self.poll.register(driver.fileno(), select.POLLIN)
        self.session = Session(connection)
        self.connection = connection

    def closed_by_server(self) -> bool:
        """Whether the idle connection has something to read.

        Nobody asked the server anything, so it can only be its farewell. This
        finds a dead connection without the round trip of a ping.
        """
        return bool(self.poll.poll(0))


class Database:
    """A fixed number of threads, each with a connection and a session of its own.

    A thread that keeps its connection saves the checkout and return of a pool
    (150 µs), one that keeps its session saves opening and closing it (50 µs), and
    a dedicated executor costs half of what anyio's worker threads do.
    """

    def __init__(self, settings: Settings) -> None:
        self._engine = connect(settings.database_url, settings)
        self._threads = ThreadPoolExecutor(settings.db_pool_size, "database")
        self._slots = asyncio.Semaphore(settings.db_pool_size)
        self._patience = settings.db_pool_timeout
        self._timeout = str(round(settings.db_statement_timeout * 1000))
        self._deadline = settings.db_connect_timeout + settings.db_statement_timeout + GRACE_SECONDS
        self._lane = _Lane()
        self._connections: set[Connection] = set()
        self._readiness = asyncio.Lock()
        self._readiness_expires = 0.0
        self._unready: str | None = None
        event.listen(self._engine, "before_cursor_execute", self._enter_scope, retval=True)

    async def run(
        self,
        user_id: str,
        work: Callable[Concatenate[Session, str, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Call `work(session, user_id, …)` in a thread, in the scope of that user.

        What `work` writes is committed statement by statement, so it is durable
        when this returns. Work that has begun is finished even when the caller
        goes away, and holds its slot until then.

        Raises PoolExhausted when no connection came free in time, Unanswered when
        the work took longer than it may, and whatever `work` raises.
        """
        await self._take_slot()

        def call(session: Session) -> T:
            return work(session, user_id, *args, **kwargs)

        future = asyncio.get_running_loop().run_in_executor(self._threads, self._call, user_id, call)
        future.add_done_callback(self._return_slot)
        # Unlike a timeout around it, this leaves the work alone.
        answered, _ = await asyncio.wait((future,), timeout=self._deadline)
        if not answered:
            raise Unanswered
        return future.result()

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
        await asyncio.to_thread(self._threads.shutdown)
        for connection in self._connections:
            connection.close()
        self._connections.clear()

    async def _take_slot(self) -> None:
        if not self._slots.locked():
            await self._slots.acquire()
            return
        try:
            async with asyncio.timeout(self._patience):
                await self._slots.acquire()
        except TimeoutError:
            raise PoolExhausted from None

    def _return_slot(self, _: object) -> None:
        self._slots.release()

    def _call(self, user_id: str, work: Callable[[Session], T]) -> T:
        session = self._session()
        self._lane.user_id = user_id
        try:
            return work(session)
        except Exception as error:
            session.close()
            if _has_lost_its_server(error):
                self._drop_connection()
            raise
        finally:
            # Nothing of one user's work is there for the next one's.
            self._lane.user_id = ""
            session.expunge_all()

    def _session(self) -> Session:
        """The thread's own, on a connection that is alive as far as can be seen from here."""
        if self._lane.connection is not None and self._lane.closed_by_server():
            self._drop_connection()
        if self._lane.connection is None:
            connection = self._engine.connect()
            self._connections.add(connection)
            self._lane.keep(connection)
        return self._lane.session

    def _drop_connection(self) -> None:
        connection, self._lane.connection = self._lane.connection, None
        assert connection is not None
        self._connections.discard(connection)
        connection.invalidate()
        connection.close()

    def _enter_scope(
        self,
        connection: Connection,
        cursor: DBAPICursor,
        statement: str,
        parameters: dict[str, object],
        context: ExecutionContext | None,
        executemany: bool,
    ) -> tuple[str, dict[str, object]]:
        """Put the scope before the statement, in the same message.

        Without a user the scope is that of nobody, in which no row can be seen.
        """
        scope = {"scope_user_id": self._lane.user_id, "scope_timeout": self._timeout}
        return _SCOPE + statement, {**parameters, **scope}

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


def _has_lost_its_server(error: Exception) -> bool:
    """Also after a failover: the old primary can only be read; a new connection finds the new one."""
    if not isinstance(error, DBAPIError):
        return False
    return error.connection_invalidated or sqlstate(error) == READ_ONLY


def _read_readiness(session: Session, _: str) -> tuple[str, bool, str | None]:
    row = session.connection().execute(_READINESS).one()
    return row.role, row.guarded, row.revision
