"""Runs the migrations, each in a transaction, on the direct endpoint; an advisory lock serializes runs."""

import sys
import time

from alembic import context
from sqlalchemy import Connection, event, text
from sqlalchemy.exc import DBAPIError
from sqlmodel import SQLModel

import db
import models  # noqa: F401 - fills the metadata
from observability import logs
from settings import DatabaseSettings

ADVISORY_LOCK = 7_455_308_412
"""Key of the advisory lock: an arbitrary number that no other program in this database uses."""

ANOTHER_RUN_SECONDS = 60
WAIT_FOR_A_TABLE = "5s"
"""Limits how long a migration may wait for a table lock, because later requests queue behind it."""


def run() -> None:
    settings = DatabaseSettings.load()
    logs.configure(settings.log_level)
    engine = db.connect(settings.direct_url, settings).execution_options(isolation_level="READ COMMITTED")
    try:
        connecting = engine.connect()
    except DBAPIError as error:
        sys.exit(f"Cannot reach the database: {' '.join(str(error.orig).split())}")
    with connecting as lock, engine.connect() as connection:
        _wait_for_another_run(lock)
        event.listen(connection, "begin", _limit_waits)
        context.configure(
            connection=connection, target_metadata=SQLModel.metadata, transaction_per_migration=True
        )
        with context.begin_transaction():
            context.run_migrations()


def _wait_for_another_run(connection: Connection) -> None:
    """Take the lock, and hold it until the connection is closed.

    Uses a separate connection, because a migration can commit several transactions. A
    transaction-level lock is also safe through a pooler. Polls instead of waiting in PostgreSQL: the
    snapshot of a waiting statement would block the CREATE INDEX CONCURRENTLY of the other run.
    """
    ends_at = time.monotonic() + ANOTHER_RUN_SECONDS
    while not connection.scalar(text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK}):
        if time.monotonic() > ends_at:
            sys.exit(f"Another migration has been running for {ANOTHER_RUN_SECONDS} seconds.")
        time.sleep(0.2)


def _limit_waits(connection: Connection) -> None:
    connection.execute(text(f"SET LOCAL lock_timeout = '{WAIT_FOR_A_TABLE}'"))


run()
