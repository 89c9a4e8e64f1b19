"""Runs all migrations in one transaction on the direct endpoint, serialized by an advisory lock."""

import sys

from alembic import context
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlmodel import SQLModel

import db
import models  # noqa: F401 - fills the metadata
from observability import logs
from settings import DatabaseSettings

ADVISORY_LOCK = 7_455_308_412
"""Key of the advisory lock: an arbitrary number that no other program in this database uses."""

WAIT_FOR_ANOTHER_RUN = "60s"
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
    with connecting as connection:
        context.configure(connection=connection, target_metadata=SQLModel.metadata)
        with context.begin_transaction():
            # Transaction-level locks and settings are also safe through a pooler.
            connection.execute(text(f"SET LOCAL lock_timeout = '{WAIT_FOR_ANOTHER_RUN}'"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK})
            connection.execute(text(f"SET LOCAL lock_timeout = '{WAIT_FOR_A_TABLE}'"))
            context.run_migrations()


run()
