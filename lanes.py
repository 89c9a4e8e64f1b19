"""A thread with a connection: where the statements of a request run, and in which scope.

One database round trip per request: psycopg2 speaks the simple query protocol,
so the scope (role, user, deadline) and the one statement of the work travel in
one message, which PostgreSQL runs as one transaction and PgBouncer hands to one
server. Connections are in autocommit, so nothing precedes and nothing follows.
No SQL about tasks belongs here.
"""

import asyncio
import os
import select
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from functools import partial
from queue import SimpleQueue
from threading import Lock, Thread
from time import perf_counter_ns
from typing import Any, TypeVar

import psycopg2
from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine.interfaces import DBAPICursor, ExecutionContext
from sqlalchemy.exc import DBAPIError
from sqlmodel import Session

ROLE = "tasks_api"
"""Under which every request runs: it owns nothing and cannot bypass row security."""

READ_ONLY = "25006"

# TimeZone, because psycopg2 cannot read year 9999 in a zone where it is 10000.
_SCOPE = (
    f"SELECT set_config('role', '{ROLE}', true),"
    " set_config('app.user_id', %(scope_user_id)s, true),"
    " set_config('statement_timeout', %(scope_timeout)s, true),"
    " set_config('TimeZone', 'UTC', true);\n"
)

T = TypeVar("T")


def sqlstate(error: DBAPIError) -> str | None:
    """PostgreSQL's code for the error, or None when the server did not send one."""
    code = getattr(error.orig, "pgcode", None)
    return code if isinstance(code, str) else None


def driver_connection(connection: Connection) -> psycopg2.extensions.connection:
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg2.extensions.connection)
    return driver


class UserSession(Session):
    """A session whose every statement travels behind the scope of its user, in the same message.

    A statement is executed once at a time: `executemany`, and so a flush that
    changes several rows alike, is refused with a TypeError.
    Between requests `user_id` is empty, so row security matches no rows.
    """

    def __init__(self, connection: Connection, statement_timeout: float) -> None:
        super().__init__(connection)
        self.user_id = ""
        self._timeout = str(round(statement_timeout * 1000))
        self._dialect = connection.dialect
        self._driver = driver_connection(connection)
        event.listen(connection, "before_cursor_execute", self._before_execute, retval=True)

    def fetch(self, sql: str, parameters: Mapping[str, object]) -> list[tuple[Any, ...]]:
        """All rows of one statement in psycopg2's form; raises DBAPIError, as `execute` does.

        Bypasses SQLAlchemy's result layer, which holds the GIL longer than psycopg2
        itself: about 20 % more GETs per second.
        """
        try:
            with closing(self._driver.cursor()) as cursor:
                cursor.execute(*self._scoped(sql, parameters))
                return cursor.fetchall()
        except psycopg2.Error as error:
            raise self._wrapped(error) from error

    def forget(self) -> None:
        """Leave nothing of one user's work for the next one's; `fetch` alone leaves nothing."""
        self.user_id = ""
        if self.in_transaction() or self.identity_map:
            self.close()

    def _scoped(self, sql: str, parameters: Mapping[str, object]) -> tuple[str, dict[str, object]]:
        scope = {"scope_user_id": self.user_id, "scope_timeout": self._timeout}
        return _SCOPE + sql, {**parameters, **scope}

    def _before_execute(
        self,
        connection: Connection,
        cursor: DBAPICursor,
        statement: str,
        parameters: dict[str, object],
        context: ExecutionContext | None,
        executemany: bool,
    ) -> tuple[str, dict[str, object]]:
        return self._scoped(statement, parameters)

    def _wrapped(self, error: psycopg2.Error) -> BaseException:
        lost = self._dialect.is_disconnect(error, self._driver, None)  # type: ignore[arg-type]
        return DBAPIError.instance(
            None,
            None,
            error,
            psycopg2.Error,
            hide_parameters=True,
            connection_invalidated=lost,
            dialect=self._dialect,
        )


class Lane:
    """A thread, a connection and a session of its own, for one piece of work after the other.

    Keeping the connection saves the checkout and return of a pool (150 µs), and
    keeping the session 50 more; a queue of its own costs half of what an executor
    does (20 µs less), and a quarter of anyio's worker threads.
    """

    def __init__(self, engine: Engine, statement_timeout: float) -> None:
        self._engine = engine
        self._statement_timeout = statement_timeout
        self._connection: Connection | None = None
        self._lost = False
        self.connected_at: int | None = None
        """On `perf_counter_ns`, or None while there is no connection."""
        self._session: UserSession
        self._poll: select.poll
        self._interruption = _Interruption()
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = Thread(target=self._serve, name="database", daemon=True)
        self._thread.start()

    def submit(
        self,
        user_id: str,
        work: Callable[[UserSession], T],
        future: asyncio.Future[T],
        done: Callable[["Lane"], None],
    ) -> None:
        """Have `work` done in the scope of the user.

        Then, in the loop of the future, calls `done` with this lane, also when
        nobody waits any more, and puts the outcome into `future`.
        """

        def call() -> None:
            try:
                settle = partial(future.set_result, self._run(user_id, work))
            except BaseException as error:
                settle = partial(future.set_exception, error)
            # A loop that was stopped at once is closed, and nobody waits.
            with suppress(RuntimeError):
                future.get_loop().call_soon_threadsafe(self._finish, future, settle, done)

        self._interruption.reset()
        self._calls.put(call)

    def interrupt(self) -> None:
        """End the connection in use, from another thread, so that the work on it fails at once.

        A connection that is still being opened is ended as soon as it is open:
        libpq offers no way to reach its socket before.
        """
        self._interruption.interrupt()

    def stop(self) -> None:
        """Let running work finish, then close the connection and end the thread."""
        self._calls.put(None)

    def join(self, timeout: float) -> bool:
        """Whether the thread has ended within so many seconds."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _serve(self) -> None:
        _thread.lane = self
        while (call := self._calls.get()) is not None:
            call()
        if self._connection is not None:
            self._drop_connection()

    def _finish(
        self, future: asyncio.Future[T], settle: Callable[[], None], done: Callable[["Lane"], None]
    ) -> None:
        done(self)
        if not future.done():
            settle()

    def _run(self, user_id: str, work: Callable[[UserSession], T]) -> T:
        session = self._open_session()
        session.user_id = user_id
        try:
            return work(session)
        except DBAPIError as error:
            # After a failover the old primary can only be read; a new connection finds the new one.
            self._lost = error.connection_invalidated or sqlstate(error) == READ_ONLY
            raise
        finally:
            session.forget()

    def _open_session(self) -> UserSession:
        """On a connection that is alive, as far as can be seen from here."""
        if self._connection is not None and (self._lost or self._is_closed_by_server()):
            self._drop_connection()
        if self._connection is None:
            self._connect()
        return self._session

    def _connect(self) -> None:
        try:
            connection = self._engine.connect()
        except BaseException:
            self._interruption.forget()
            raise
        self._poll = select.poll()
        self._poll.register(driver_connection(connection).fileno(), select.POLLIN)
        self._session = UserSession(connection, self._statement_timeout)
        self._connection = connection
        self._lost = False
        self.connected_at = perf_counter_ns()

    def adopt(self, driver: psycopg2.extensions.connection) -> None:
        """Make a connection that was just opened one that `interrupt` ends."""
        self._interruption.watch(driver.fileno())

    def _is_closed_by_server(self) -> bool:
        """Whether the idle connection has something to read.

        No query is pending, so a readable socket means that the server closed the
        connection, that it was interrupted, or that an answer came too late. This
        finds a dead connection without the round trip of a ping.
        """
        return bool(self._poll.poll(0))

    def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        self.connected_at = None
        assert connection is not None
        self._interruption.forget()
        connection.invalidate()
        connection.close()


class _Interruption:
    """Ends a connection from another thread, by shutting its socket down.

    libpq waits without limit while the peer's kernel acknowledges: neither
    keepalives nor TCP_USER_TIMEOUT end that wait, and PQcancel asks the very server
    that does not answer. The descriptor is a duplicate: libpq may close its own at
    any time, and the number may then belong to another connection.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._socket: socket.socket | None = None
        self._requested = False

    def reset(self) -> None:
        with self._lock:
            self._requested = False

    def watch(self, descriptor: int) -> None:
        with self._lock:
            self._close()
            self._socket = socket.socket(fileno=os.dup(descriptor))
            if self._requested:
                self._shut_down(self._socket)

    def interrupt(self) -> None:
        with self._lock:
            self._requested = True
            if self._socket is not None:
                self._shut_down(self._socket)

    def forget(self) -> None:
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _shut_down(self, connected: socket.socket) -> None:
        # The peer may have closed it already.
        with suppress(OSError):
            connected.shutdown(socket.SHUT_RDWR)


class _Thread(threading.local):
    lane: Lane | None = None


_thread = _Thread()


def adopt_connection(driver: psycopg2.extensions.connection, _: object) -> None:
    """Listens to an engine's new connections, before SQLAlchemy sends the first statement on one."""
    if _thread.lane is not None:
        _thread.lane.adopt(driver)
