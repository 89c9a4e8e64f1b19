"""The feed of each user, folded text for search, and an index for each order of a list.

Source: specs/database/schema.md. The previous version serves requests meanwhile and afterwards;
triggers take the positions of its writes. Each step can be repeated: a failure keeps the steps
that were committed before it, and the next run continues.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

from services.search import fold

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

BATCH = 1_000
"""Rows that are numbered in one transaction, while writes of their user wait."""

RANK = "CASE priority WHEN 'high' THEN 3 WHEN 'medium' THEN 2 ELSE 1 END"
LIVE, DELETED = "WHERE deleted_at IS NULL", "WHERE deleted_at IS NOT NULL"
INDEXES = {
    "uq_tasks_user_id_seq": ("UNIQUE INDEX", "(user_id, seq)"),
    "ix_tasks_live_created": ("INDEX", f"(user_id, created_at, id) {LIVE}"),
    "ix_tasks_live_completed": ("INDEX", f"(user_id, completed, created_at, id) {LIVE}"),
    "ix_tasks_live_due": ("INDEX", f"(user_id, due_at, id) {LIVE}"),
    "ix_tasks_live_priority": ("INDEX", f"(user_id, ({RANK}), id) {LIVE}"),
    "ix_tasks_live_updated": ("INDEX", f"(user_id, seq) {LIVE}"),
    "ix_tasks_trash": ("INDEX", f"(user_id, seq) {DELETED}"),
}


def upgrade() -> None:
    op.execute("ALTER TABLE tasks ADD COLUMN IF NOT EXISTS seq bigint")
    op.execute("ALTER TABLE tasks ADD COLUMN IF NOT EXISTS search_title text")
    op.execute("ALTER TABLE tasks ADD COLUMN IF NOT EXISTS search_description text")
    op.execute("GRANT UPDATE (seq, search_title, search_description) ON tasks TO tasks_api")
    _create_feeds()
    _create_maintenance_role()
    _take_positions()
    with op.get_context().autocommit_block():
        _create_indexes()
        _backfill()
    _require_positions()


def downgrade() -> None:
    op.execute("DROP TRIGGER tasks_lock ON tasks")
    op.execute("DROP TRIGGER tasks_inserted ON tasks")
    op.execute("DROP TRIGGER tasks_updated ON tasks")
    op.execute("DROP FUNCTION lock_feed(), take_position()")
    for name in INDEXES:
        op.execute(f"DROP INDEX {name}")
    op.execute("DROP POLICY maintained_tasks ON tasks")
    op.execute("REVOKE ALL ON tasks FROM tasks_maintenance")
    op.execute("ALTER TABLE tasks DROP COLUMN seq, DROP COLUMN search_title, DROP COLUMN search_description")
    op.drop_table("feeds")
    op.create_index(
        "ix_tasks_user_id_completed_id", "tasks", ["user_id", "completed", "id"],
        postgresql_where=sa.text("deleted_at IS NULL"),
    )  # fmt: skip
    op.execute(
        "DO $$ BEGIN EXECUTE format("
        "'REVOKE USAGE ON SCHEMA %I FROM tasks_maintenance', current_schema()); END $$"
    )


def _create_feeds() -> None:
    """Updates of `seq` stay on their page (HOT), which is why pages are filled only by half."""
    op.execute("""
        CREATE TABLE IF NOT EXISTS feeds (
            user_id text NOT NULL,
            seq bigint NOT NULL,
            live_tasks integer NOT NULL,
            CONSTRAINT pk_feeds PRIMARY KEY (user_id),
            CONSTRAINT ck_feeds_user_id_length CHECK (char_length(user_id) BETWEEN 1 AND 255),
            CONSTRAINT ck_feeds_seq_positive CHECK (seq >= 1),
            CONSTRAINT ck_feeds_live_tasks_counted CHECK (live_tasks >= 0)
        ) WITH (fillfactor = 50)
    """)
    op.execute("GRANT SELECT, INSERT ON feeds TO tasks_api")
    op.execute("GRANT UPDATE (seq, live_tasks) ON feeds TO tasks_api")
    op.execute("ALTER TABLE feeds ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE feeds FORCE ROW LEVEL SECURITY")
    op.execute("DROP POLICY IF EXISTS own_feed ON feeds")
    op.execute("""
        CREATE POLICY own_feed ON feeds TO tasks_api
            USING (user_id = (SELECT NULLIF(current_setting('app.user_id', true), '')))
            WITH CHECK (user_id = (SELECT NULLIF(current_setting('app.user_id', true), '')))
    """)


def _create_maintenance_role() -> None:
    """A role that finds the users, whose tasks are then changed in the scope of each user.

    It may read no content of a task.
    """
    op.execute("""
        DO $$
        BEGIN
            IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'tasks_maintenance') THEN
                CREATE ROLE tasks_maintenance NOLOGIN NOINHERIT;
            END IF;
            IF current_setting('server_version_num')::int >= 160000 THEN
                IF NOT pg_has_role(current_user, 'tasks_maintenance', 'SET') THEN
                    EXECUTE 'GRANT tasks_maintenance TO CURRENT_USER WITH SET TRUE, INHERIT FALSE';
                END IF;
            ELSIF NOT pg_has_role(current_user, 'tasks_maintenance', 'MEMBER') THEN
                GRANT tasks_maintenance TO CURRENT_USER;
            END IF;
            EXECUTE format('GRANT USAGE ON SCHEMA %I TO tasks_maintenance', current_schema());
        END
        $$
    """)
    op.execute("GRANT SELECT (user_id, id, seq, deleted_at) ON tasks TO tasks_maintenance")
    op.execute("DROP POLICY IF EXISTS maintained_tasks ON tasks")
    op.execute("CREATE POLICY maintained_tasks ON tasks FOR SELECT TO tasks_maintenance USING (true)")


def _take_positions() -> None:
    """A trigger takes a position for every change, unless the change exceeds the quota.

    PostgreSQL keeps the plans of a PL/pgSQL function: as a part of each statement, this would take
    longer to plan than to do. Writes of the previous version also take the write lock here, and
    lose their folded text; this version sets `app.write_lock` when it has taken the lock.
    """
    op.execute("""
        CREATE OR REPLACE FUNCTION lock_feed() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM pg_advisory_xact_lock(hashtextextended(current_setting('app.user_id', true), 0));
            RETURN NULL;
        END
        $$
    """)
    op.execute("""
        CREATE OR REPLACE FUNCTION take_position() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE
            change integer := (NEW.deleted_at IS NULL)::integer;
            max_tasks integer := coalesce(NULLIF(current_setting('app.max_tasks', true), ''), '2147483647');
        BEGIN
            IF TG_OP = 'UPDATE' THEN
                change := change - (OLD.deleted_at IS NULL)::integer;
                IF current_setting('app.write_lock', true) IS DISTINCT FROM 'taken' THEN
                    IF NEW.title <> OLD.title THEN
                        NEW.search_title := NULL;
                    END IF;
                    IF NEW.description IS DISTINCT FROM OLD.description THEN
                        NEW.search_description := NULL;
                    END IF;
                END IF;
            END IF;
            UPDATE feeds SET seq = seq + 1, live_tasks = live_tasks + change
                WHERE user_id = NEW.user_id AND (change < 1 OR live_tasks < max_tasks)
                RETURNING seq INTO NEW.seq;
            IF NOT FOUND THEN
                INSERT INTO feeds (user_id, seq, live_tasks)
                    SELECT NEW.user_id, floor(extract(epoch FROM clock_timestamp()) * 1000),
                        count(*) + change
                    FROM tasks WHERE user_id = NEW.user_id AND deleted_at IS NULL
                    ON CONFLICT DO NOTHING RETURNING seq INTO NEW.seq;
            END IF;
            RETURN CASE WHEN FOUND THEN NEW END;
        END
        $$
    """)
    op.execute("ALTER TABLE tasks DROP CONSTRAINT IF EXISTS seq_given")
    op.execute("ALTER TABLE tasks ADD CONSTRAINT seq_given CHECK (seq IS NOT NULL) NOT VALID")
    for name in ("tasks_lock", "tasks_inserted", "tasks_updated"):
        op.execute(f"DROP TRIGGER IF EXISTS {name} ON tasks")
    op.execute("""
        CREATE TRIGGER tasks_lock BEFORE INSERT OR UPDATE ON tasks FOR EACH STATEMENT
            WHEN (current_setting('app.write_lock', true) IS DISTINCT FROM 'taken')
            EXECUTE FUNCTION lock_feed()
    """)
    op.execute("""
        CREATE TRIGGER tasks_inserted BEFORE INSERT ON tasks FOR EACH ROW
            WHEN (NEW.seq IS NULL) EXECUTE FUNCTION take_position()
    """)
    op.execute("""
        CREATE TRIGGER tasks_updated BEFORE UPDATE ON tasks FOR EACH ROW
            WHEN (NEW.seq IS NOT DISTINCT FROM OLD.seq) EXECUTE FUNCTION take_position()
    """)


def _create_indexes() -> None:
    """Without blocking writes. An index whose creation failed is invalid, and is created again."""
    for name, (kind, definition) in INDEXES.items():
        valid = _fetch("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%(name)s)", name=name)
        if valid == [(False,)]:
            op.execute(f"DROP INDEX CONCURRENTLY {name}")
        if valid != [(True,)]:
            op.execute(f"CREATE {kind} CONCURRENTLY {name} ON tasks {definition}")
    op.execute("DROP INDEX CONCURRENTLY IF EXISTS ix_tasks_user_id_completed_id")


def _backfill() -> None:
    """Number the tasks of each user from 1, in the order of their last change.

    The feed then begins at the time in milliseconds, which is higher than any of these numbers, and
    so do the positions that the triggers have taken meanwhile.
    """
    for user_id in _users():
        seq = 0
        while batch := _unnumbered(user_id):
            if seq == 0:
                seq = _last_number(user_id)
            _number(user_id, seq, batch)
            seq += len(batch)
        _in_scope(
            user_id,
            "INSERT INTO feeds (user_id, seq, live_tasks)"
            " SELECT %(user_id)s, floor(extract(epoch FROM clock_timestamp()) * 1000), count(*)"
            " FROM tasks WHERE user_id = %(user_id)s AND deleted_at IS NULL ON CONFLICT DO NOTHING",
        )


def _users() -> Iterator[str]:
    """All users who have tasks, found one after the other by the primary key."""
    user_id = ""
    while True:
        [(found,)] = _fetch(
            "SELECT set_config('role', 'tasks_maintenance', true);"
            " SELECT min(user_id) FROM tasks WHERE user_id > %(user_id)s",
            user_id=user_id,
        )
        if found is None:
            return
        yield found
        user_id = found


def _unnumbered(user_id: str) -> Sequence[tuple[Any, ...]]:
    return _in_scope(
        user_id,
        "SELECT id::text, version, title, description FROM tasks"
        " WHERE user_id = %(user_id)s AND seq IS NULL ORDER BY updated_at, id LIMIT %(limit)s",
        limit=BATCH,
    )


def _last_number(user_id: str) -> int:
    """Of a run that was interrupted; below the positions that the triggers take."""
    [(last,)] = _in_scope(
        user_id,
        "SELECT coalesce(max(seq), 0) FROM tasks WHERE user_id = %(user_id)s AND seq < 1000000000000",
    )
    return int(last)


def _number(user_id: str, last: int, batch: Sequence[tuple[Any, ...]]) -> None:
    """A task that changed since it was read has got its position from the trigger."""
    _in_scope(
        user_id,
        "UPDATE tasks SET seq = %(last)s + new.number,"
        " search_title = new.title, search_description = new.description"
        " FROM unnest(%(ids)s::uuid[], %(versions)s::integer[], %(titles)s::text[], %(descriptions)s::text[])"
        "     WITH ORDINALITY AS new (id, version, title, description, number)"
        " WHERE tasks.user_id = %(user_id)s AND tasks.id = new.id AND tasks.version = new.version"
        "     AND tasks.seq IS NULL RETURNING 1",
        last=last,
        ids=[each[0] for each in batch],
        versions=[each[1] for each in batch],
        titles=[fold(each[2]) for each in batch],
        descriptions=[each[3] and fold(each[3]) for each in batch],
    )


def _in_scope(user_id: str, statement: str, **parameters: object) -> Sequence[tuple[Any, ...]]:
    """One message as the service sends it: with the role, the user and the write lock."""
    return _fetch(
        "SELECT set_config('role', 'tasks_api', true), set_config('app.user_id', %(user_id)s, true),"
        " set_config('app.write_lock', 'taken', true), set_config('lock_timeout', '5s', true);"
        " SELECT pg_advisory_xact_lock(hashtextextended(%(user_id)s, 0));"
        f" {statement}",
        user_id=user_id,
        **parameters,
    )


def _fetch(statement: str, **parameters: object) -> Sequence[tuple[Any, ...]]:
    result = op.get_bind().exec_driver_sql(statement, parameters)
    return [tuple(row) for row in result] if result.returns_rows else []


def _require_positions() -> None:
    """VALIDATE scans the table without blocking writes; SET NOT NULL then skips its own scan."""
    op.execute("ALTER TABLE tasks VALIDATE CONSTRAINT seq_given")
    op.execute("ALTER TABLE tasks ALTER COLUMN seq SET NOT NULL")
    op.execute("ALTER TABLE tasks DROP CONSTRAINT seq_given")
