"""A worker thread with its own database connection.

A worker keeps its connection and session between requests, detects that the server has
closed the connection, and can be interrupted from another thread. Message contents belong
in `session.py`; the pool of workers is in `db.py`.
"""

import asyncio
import os
import select
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from threading import Lock, Thread
from time import perf_counter_ns
from typing import TypeVar

import psycopg2
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from database.session import READ_ONLY, UserSession, driver_connection, sqlstate

T = TypeVar("T")


class ConnectionWorker:
    """A thread with its own connection and session that runs one call at a time.

    Keeping the connection saves the checkout and return of a pool (150 µs), and keeping the
    session another 50 µs. The queue costs half as much as an executor (20 µs less) and a
    quarter as much as anyio's worker threads.
    """

    def __init__(self, engine: Engine, statement_timeout: float, max_tasks: int) -> None:
        self._engine = engine
        self._statement_timeout = statement_timeout
        self._max_tasks = max_tasks
        self._connection: Connection | None = None
        self._lost = False
        self.connected_at: int | None = None
        """`perf_counter_ns()` when the connection was opened, or None without a connection."""
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
        done: Callable[["ConnectionWorker"], None],
    ) -> None:
        """Queue `work` to run in the thread, scoped to the user.

        Afterwards calls `done(worker)` in the event loop of `future`, even if the caller was
        cancelled, and then sets the result or exception of `future`.
        """

        def call() -> None:
            try:
                settle = partial(future.set_result, self._run(user_id, work))
            except BaseException as error:
                settle = partial(future.set_exception, error)
            # The event loop is already closed if the process is exiting; no caller is waiting then.
            with suppress(RuntimeError):
                future.get_loop().call_soon_threadsafe(self._finish, future, settle, done)

        self._interruption.reset()
        self._calls.put(call)

    def interrupt(self) -> None:
        """Shut down the connection from another thread, so that the work on it fails immediately.

        A connection that is still being opened is shut down once it is open: libpq does not
        expose its socket earlier.
        """
        self._interruption.interrupt()

    def stop(self) -> None:
        """Close the connection and end the thread after the running work."""
        self._calls.put(None)

    def join(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds; returns whether the thread has ended."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _serve(self) -> None:
        _current.worker = self
        while (call := self._calls.get()) is not None:
            call()
        if self._connection is not None:
            self._drop_connection()

    def _finish(
        self,
        future: asyncio.Future[T],
        settle: Callable[[], None],
        done: Callable[["ConnectionWorker"], None],
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
            # After a failover the former primary is read-only; a new connection reaches the new primary.
            self._lost = error.connection_invalidated or sqlstate(error) == READ_ONLY
            raise
        finally:
            session.reset()

    def _open_session(self) -> UserSession:
        """The session, reconnecting first if the connection is known to be dead."""
        if self._connection is not None and (self._lost or self._is_closed_by_server()):
            self._drop_connection()
        if self._connection is None:
            self._connect()
        return self._session

    def _connect(self) -> None:
        try:
            connection = self._engine.connect()
        except BaseException:
            self._interruption.unwatch()
            raise
        self._poll = select.poll()
        self._poll.register(driver_connection(connection).fileno(), select.POLLIN)
        self._session = UserSession(connection, self._statement_timeout, self._max_tasks)
        self._connection = connection
        self._lost = False
        self.connected_at = perf_counter_ns()

    def adopt(self, driver: psycopg2.extensions.connection) -> None:
        """Register a connection that was just opened, so that `interrupt` can shut it down."""
        self._interruption.watch(driver.fileno())

    def _is_closed_by_server(self) -> bool:
        """Whether the idle connection's socket is readable.

        No query is pending, so a readable socket means that the server closed the
        connection, that it was interrupted, or that a late answer arrived. This detects a
        dead connection without the round trip of a ping.
        """
        return bool(self._poll.poll(0))

    def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        self.connected_at = None
        assert connection is not None
        self._interruption.unwatch()
        connection.invalidate()
        connection.close()


class _Interruption:
    """Shuts down the socket of a connection from another thread.

    libpq waits indefinitely while the peer's kernel acknowledges packets: keepalives and
    TCP_USER_TIMEOUT do not apply then, and PQcancel needs an answer from the same
    unresponsive server. The file descriptor is duplicated because libpq may close its own at
    any time, after which its number may be reused for another connection.
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

    def unwatch(self) -> None:
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _shut_down(self, connected: socket.socket) -> None:
        # The peer may already have closed the connection.
        with suppress(OSError):
            connected.shutdown(socket.SHUT_RDWR)


class _Current(threading.local):
    worker: ConnectionWorker | None = None


_current = _Current()


def adopt_connection(driver: psycopg2.extensions.connection, _: object) -> None:
    """Listener for an engine's "connect" event; runs before SQLAlchemy sends its first statement."""
    if _current.worker is not None:
        _current.worker.adopt(driver)
