"""Deletes for good what has been in the trash for TRASH_RETENTION_DAYS, and expired idempotency keys.

    python -m purge

To be run once a day: docs/deploying.md shows how. It uses the direct endpoint and the role
`tasks_maintenance`, which cannot delete anything else. Each batch is a separate transaction, behind the
write lock of its user, so a run can be ended at any time, and the next one continues. Source:
specs/database/schema.md.
"""

import logging
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

import db
from observability import logs
from settings import PurgeSettings

log = logging.getLogger("purge")

BATCH = 1_000
"""Rows that are deleted in one transaction, while writes of their user wait."""

STATEMENT_TIMEOUT = "10s"

_BEGIN = (
    "SELECT set_config('role', 'tasks_maintenance', true),"
    f" set_config('statement_timeout', '{STATEMENT_TIMEOUT}', true)"
)
_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended(:user_id, 0))"
_NEXT_USER = {
    "tasks": "SELECT min(user_id) FROM tasks WHERE deleted_at IS NOT NULL AND user_id > :user_id",
    "idempotency_keys": "SELECT min(user_id) FROM idempotency_keys WHERE user_id > :user_id",
}
_DELETE = {
    # A task that was restored meanwhile no longer matches.
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
    """Exits with 1 if the rows of a user could not be purged, after those of all others."""
    settings = PurgeSettings.load()
    logs.configure(settings.log_level)
    engine = db.connect(settings.direct_url, settings).execution_options(isolation_level="READ COMMITTED")
    try:
        with engine.connect() as connection:
            runs = [Purge(connection, table, settings.trash_retention_days) for table in _DELETE]
            for run in runs:
                run.all_users()
    except DBAPIError as error:
        log.error("Purge failed: %s", logs.name(error))
        sys.exit(1)
    log.info("Purged tasks: %d, idempotency keys: %d", *(run.deleted for run in runs))
    if failures := sum(run.failures for run in runs):
        sys.exit(f"{failures} failures")


@dataclass
class Purge:
    """A run for one table."""

    connection: Connection
    table: str
    days: int
    deleted: int = 0
    failures: int = 0

    def all_users(self) -> None:
        for user_id in _users(self.connection, self.table):
            try:
                self._one_user(user_id)
            except DBAPIError as error:
                if error.connection_invalidated:
                    raise
                self.failures += 1
                log.error("Purge of a user failed: %s", logs.name(error))

    def _one_user(self, user_id: str) -> None:
        batch = BATCH
        while batch == BATCH:
            values = {"user_id": user_id, "days": self.days, "batch": BATCH}
            batch = _in_transaction(self.connection, _DELETE[self.table], values, lock=True)
            self.deleted += batch


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
