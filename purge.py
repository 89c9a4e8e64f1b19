"""Deletes for good what has been in the trash for TRASH_RETENTION_DAYS, and expired idempotency keys.

    python -m purge

To be run once a day: docs/deploying.md shows how. It uses the direct endpoint and the role
`tasks_maintenance`, which may delete nothing else. Each batch is a transaction of its own, behind the
write lock of its user, so a run can be ended at any time, and the next one continues. Source:
specs/database/schema.md.
"""

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import Connection, text

import db
from observability import logs
from settings import PurgeSettings

log = logging.getLogger("purge")

BATCH = 1_000
"""Rows that are deleted in one transaction, while writes of their user wait."""

STATEMENT_TIMEOUT = "60s"

_BEGIN = (
    "SELECT set_config('role', 'tasks_maintenance', true),"
    f" set_config('statement_timeout', '{STATEMENT_TIMEOUT}', true)"
)
# The settings are for the triggers on `tasks`.
_LOCK = (
    "SELECT pg_advisory_xact_lock(hashtextextended(:user_id, 0)), set_config('app.write_lock', 'taken', true)"
)
_NEXT_USER = {
    "tasks": "SELECT min(user_id) FROM tasks WHERE deleted_at IS NOT NULL AND user_id > :user_id",
    "idempotency_keys": "SELECT min(user_id) FROM idempotency_keys WHERE user_id > :user_id",
}
_DELETE = {
    # A task that was restored meanwhile no longer matches. The position of the last task that is gone
    # tells a client that has not seen it that it must begin again.
    "tasks": """
        WITH gone AS (
            DELETE FROM tasks WHERE user_id = :user_id AND deleted_at IS NOT NULL AND id IN (
                SELECT id FROM tasks
                WHERE user_id = :user_id AND deleted_at < now() - make_interval(days => :days)
                ORDER BY seq LIMIT :batch
            ) RETURNING seq
        ), marked AS (
            UPDATE feeds SET purged_seq = greatest(purged_seq, (SELECT max(seq) FROM gone))
            WHERE user_id = :user_id AND EXISTS (SELECT FROM gone)
        )
        SELECT count(*) FROM gone
    """,
    "idempotency_keys": """
        WITH gone AS (
            DELETE FROM idempotency_keys WHERE user_id = :user_id AND slot IN (
                SELECT slot FROM idempotency_keys
                WHERE user_id = :user_id AND created_at <= now() - interval '24 hours' LIMIT :batch
            ) RETURNING 1
        )
        SELECT count(*) FROM gone
    """,
}


def main() -> None:
    settings = PurgeSettings.load()
    logs.configure(settings.log_level)
    engine = db.connect(settings.direct_url, settings).execution_options(isolation_level="READ COMMITTED")
    with engine.connect() as connection:
        counts = {table: purge(connection, table, settings.trash_retention_days) for table in _DELETE}
    log.info("Purged %d tasks and %d idempotency keys", counts["tasks"], counts["idempotency_keys"])


def purge(connection: Connection, table: str, days: int) -> int:
    """The number of rows deleted."""
    deleted = 0
    for user_id in _users(connection, table):
        batch = BATCH
        while batch == BATCH:
            values = {"user_id": user_id, "days": days, "batch": BATCH}
            batch = _in_transaction(connection, _DELETE[table], values, lock=True)
            deleted += batch
    return deleted


def _users(connection: Connection, table: str) -> Iterator[str]:
    """The users who have rows to look at, one after the other by an index that begins with `user_id`."""
    user_id = ""
    while (user_id := _in_transaction(connection, _NEXT_USER[table], {"user_id": user_id})) is not None:
        yield user_id


def _in_transaction(
    connection: Connection, statement: str, values: Mapping[str, object], *, lock: bool = False
) -> Any:
    with connection.begin():
        connection.execute(text(_BEGIN))
        if lock:
            connection.execute(text(_LOCK), values)
        return connection.scalar(text(statement), values)


if __name__ == "__main__":
    main()
