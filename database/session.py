"""A session scoped to one user, which sends the scope and the statement in one message.

psycopg2 uses the simple query protocol, so the scope (role, user, statement timeout), the
user's write lock and the statement fit into one message. PostgreSQL runs it as one
transaction and PgBouncer sends it to one server connection: one round trip per request.
Connections are in autocommit mode, so there is no BEGIN or COMMIT. This module must not
contain SQL about tasks.
"""

import hashlib
from collections.abc import Mapping
from contextlib import closing
from functools import lru_cache
from typing import Any, NamedTuple

import psycopg2
from sqlalchemy import Connection, Executable, event
from sqlalchemy.dialects.postgresql.psycopg2 import PGDialect_psycopg2
from sqlalchemy.engine.interfaces import DBAPICursor, ExecutionContext
from sqlalchemy.exc import DBAPIError
from sqlmodel import Session

ROLE = "tasks_api"
"""The role of every request: it owns no objects and cannot bypass row security."""

READ_ONLY = "25006"
"""SQLSTATE of a write on a read-only server, such as a former primary after a failover."""

_UNKNOWN_STATEMENT, _KNOWN_STATEMENT = "26000", "42P05"

_DIALECT = PGDialect_psycopg2()  # type: ignore[no-untyped-call]
_NUMBERED = PGDialect_psycopg2(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]

# TimeZone is UTC because psycopg2 cannot parse a timestamp in 9999 that is in 10000 in local time.
_SCOPE = (
    f"SELECT set_config('role', '{ROLE}', true),"
    " set_config('app.user_id', %(scope_user_id)s, true),"
    " set_config('statement_timeout', %(scope_timeout)s, true),"
    " set_config('TimeZone', 'UTC', true)"
)

# Without a user: this role sees the positions of all feeds, and nothing else.
_WATCH = (
    "SELECT set_config('role', 'tasks_watcher', true),"
    " set_config('statement_timeout', %(scope_timeout)s, true)"
)

# The plan of a prepared statement must not depend on the values of its first uses.
_KEEP_PLAN = ", set_config('plan_cache_mode', 'force_generic_plan', true)"

# For a small user the planner would rather sort all tasks than follow an index that has the order.
_KEEP_ORDER = ", set_config('enable_sort', 'off', true), set_config('enable_bitmapscan', 'off', true)"

# A separate statement: the next one gets a snapshot taken after the wait, and statement_timeout
# limits the wait. The settings are for the triggers of migration 0002.
_WRITE_LOCK = (
    "SELECT pg_advisory_xact_lock(hashtextextended(%(scope_user_id)s, 0)),"
    " set_config('app.write_lock', 'taken', true),"
    " set_config('app.max_tasks', %(scope_max_tasks)s, true);\n"
)


def sqlstate(error: DBAPIError) -> str | None:
    """The SQLSTATE of the error, or None if the error does not come from the server."""
    code = getattr(error.orig, "pgcode", None)
    return code if isinstance(code, str) else None


def driver_connection(connection: Connection) -> psycopg2.extensions.connection:
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg2.extensions.connection)
    return driver


class _Compiled(NamedTuple):
    """A statement as SQL for psycopg2, with `%(name)s` placeholders."""

    text: str
    name: str = ""
    """The name under which it is prepared, if any: its operation and a digest of its text."""
    prepare: str = ""
    execute: str = ""


@lru_cache(maxsize=1024)
def _compiled(statement: Executable) -> _Compiled:
    text = str(statement.compile(dialect=_DIALECT))  # type: ignore[attr-defined]
    operation = statement.get_execution_options().get("prepare")
    if operation is None:
        return _Compiled(text)
    numbered = statement.compile(dialect=_NUMBERED)  # type: ignore[attr-defined]
    digest = hashlib.blake2b(str(numbered).encode(), digest_size=6)
    name = f"{operation}_{digest.hexdigest()}"
    values = ", ".join(f"%({each})s" for each in numbered.positiontup)
    return _Compiled(text, name, f"PREPARE {name} AS {numbered}", f"EXECUTE {name}({values})")


class UserSession(Session):
    """A session that prefixes every statement with the scope of its user, in the same message.

    `executemany` is not supported and raises a TypeError; neither is a flush that changes
    several rows with the same statement. Between requests `user_id` is empty, so row
    security matches no rows.
    """

    def __init__(self, connection: Connection, statement_timeout: float, max_tasks: int) -> None:
        super().__init__(connection)
        self.user_id = ""
        self._prepared: set[str] = set()
        self._timeout = str(round(statement_timeout * 1000))
        self._max_tasks = str(max_tasks)
        self._dialect = connection.dialect
        self._driver = driver_connection(connection)
        event.listen(connection, "before_cursor_execute", self._before_execute, retval=True)

    def rows(self, statement: Executable, parameters: Mapping[str, object]) -> list[tuple[Any, ...]]:
        """All rows of one statement. Raises DBAPIError, like `execute`.

        The compiled SQL is cached by statement object: build statements at import time, or
        once per variant, and pass the values of a request as parameters. With the execution
        option `prepare`, a name, PostgreSQL also keeps the plan; each takes some 50 KB of its
        memory per connection, so this is for the statements of most requests.
        Bypasses SQLAlchemy's result layer, which holds the GIL longer than psycopg2
        itself: about 20 % more GETs per second.
        """
        return self._run(statement, parameters, _SCOPE)

    def ordered_rows(self, statement: Executable, parameters: Mapping[str, object]) -> list[tuple[Any, ...]]:
        """Like `rows`, for a list whose order an index has: PostgreSQL follows it instead of sorting."""
        return self._run(statement, parameters, _SCOPE + _KEEP_ORDER)

    def watched_rows(self, statement: Executable, parameters: Mapping[str, object]) -> list[tuple[Any, ...]]:
        """Like `rows`, under the role that sees the positions of all users' feeds and nothing else."""
        return self._run(statement, parameters, _WATCH)

    def write(self, statement: Executable, parameters: Mapping[str, object]) -> list[tuple[Any, ...]]:
        """Like `rows`, behind the write lock of the user.

        All writes of a user run one after the other, and each sees everything that the ones
        before it have committed. The lock ends with the transaction. Two users whose hashes
        are equal only wait for each other. A row that would exceed the user's quota of tasks
        is left out.
        """
        return self._run(statement, parameters, _SCOPE, _WRITE_LOCK)

    def reset(self) -> None:
        """Drop all state before the next user's request; `rows` alone leaves none."""
        self.user_id = ""
        if self.in_transaction() or self.identity_map:
            self.close()

    def _run(
        self, statement: Executable, parameters: Mapping[str, object], scope: str, before: str = ""
    ) -> list[tuple[Any, ...]]:
        """Send the statement, prepared if it has a name.

        A transaction pooler can send a message to another server connection than the one before, on
        which the statement may be unknown. PostgreSQL then refuses the message before it has done
        anything. The last attempt needs no prepared statement.
        """
        sql = _compiled(statement)
        if not sql.name:
            return self._send(before + sql.text, parameters, scope)
        for _ in range(2):
            if sql.name not in self._prepared:
                self._prepare(sql)
            try:
                return self._send(before + sql.execute, parameters, scope + _KEEP_PLAN)
            except DBAPIError as error:
                if sqlstate(error) != _UNKNOWN_STATEMENT:
                    raise
            self._prepared.discard(sql.name)
        return self._send(before + sql.text, parameters, scope)

    def _prepare(self, sql: _Compiled) -> None:
        """In a separate message: PostgreSQL keeps its text, so it must contain nothing of a request."""
        limit = f"SELECT set_config('statement_timeout', '{self._timeout}', true)"
        try:
            with closing(self._driver.cursor()) as cursor:
                cursor.execute(f"{limit};\n{sql.prepare}")
        except psycopg2.Error as error:
            if error.pgcode != _KNOWN_STATEMENT:
                raise self._wrapped(error) from error
        self._prepared.add(sql.name)

    def _send(self, sql: str, parameters: Mapping[str, object], scope: str) -> list[tuple[Any, ...]]:
        try:
            with closing(self._driver.cursor()) as cursor:
                cursor.execute(*self._scoped(sql, parameters, scope))
                return cursor.fetchall()
        except psycopg2.Error as error:
            raise self._wrapped(error) from error

    def _scoped(
        self, sql: str, parameters: Mapping[str, object], scope: str = _SCOPE
    ) -> tuple[str, dict[str, object]]:
        values = {
            "scope_user_id": self.user_id,
            "scope_timeout": self._timeout,
            "scope_max_tasks": self._max_tasks,
        }
        return f"{scope};\n{sql}", {**parameters, **values}

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
