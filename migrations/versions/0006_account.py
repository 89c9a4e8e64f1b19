"""Erasing an account, and where the feed begins for a user who has none, or no longer has one.

Requests may not delete rows. They may call a function that deletes those of their user, with the
rights of a role that row security also limits to this user. Source: specs/database/schema.md.
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

OWN_ROWS = "user_id = (SELECT NULLIF(current_setting('app.user_id', true), ''))"
TABLES = ("tasks", "feeds", "idempotency_keys")


def upgrade() -> None:
    _begin_feeds_later()
    _create_role()
    _guard()
    _create_function()


def downgrade() -> None:
    op.execute("SET LOCAL ROLE tasks_eraser")
    op.execute("DROP FUNCTION erase_account(text, integer)")
    op.execute("RESET ROLE")
    for table in TABLES:
        op.execute(f"DROP POLICY erased ON {table}")
        op.execute(f"REVOKE ALL ON {table} FROM tasks_eraser")
    op.execute(
        "DO $$ BEGIN EXECUTE format('REVOKE USAGE ON SCHEMA %I FROM tasks_eraser', current_schema()); END $$"
    )
    op.execute("DROP TRIGGER feeds_inserted ON feeds")
    op.execute("DROP FUNCTION begin_feed()")


def _begin_feeds_later() -> None:
    """At the time in microseconds: milliseconds could be behind the last position of an erased feed.

    An earlier position cannot be continued.
    """
    op.execute("""
        CREATE FUNCTION begin_feed() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            NEW.seq := floor(extract(epoch FROM clock_timestamp()) * 1000000);
            NEW.purged_seq := NEW.seq;
            RETURN NEW;
        END
        $$
    """)
    op.execute("""
        CREATE TRIGGER feeds_inserted BEFORE INSERT ON feeds FOR EACH ROW EXECUTE FUNCTION begin_feed()
    """)


def _create_role() -> None:
    op.execute("""
        DO $$
        BEGIN
            IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'tasks_eraser') THEN
                CREATE ROLE tasks_eraser NOLOGIN NOINHERIT;
            END IF;
            IF current_setting('server_version_num')::int >= 160000 THEN
                IF NOT pg_has_role(current_user, 'tasks_eraser', 'SET') THEN
                    EXECUTE 'GRANT tasks_eraser TO CURRENT_USER WITH SET TRUE, INHERIT FALSE';
                END IF;
            ELSIF NOT pg_has_role(current_user, 'tasks_eraser', 'MEMBER') THEN
                GRANT tasks_eraser TO CURRENT_USER;
            END IF;
            EXECUTE format('GRANT USAGE ON SCHEMA %I TO tasks_eraser', current_schema());
        END
        $$
    """)


def _guard() -> None:
    op.execute("GRANT SELECT (user_id, id, deleted_at), DELETE ON tasks TO tasks_eraser")
    op.execute("GRANT SELECT (user_id), DELETE ON idempotency_keys TO tasks_eraser")
    op.execute("GRANT SELECT (user_id, seq, live_tasks), DELETE ON feeds TO tasks_eraser")
    op.execute("GRANT UPDATE (seq, live_tasks, purged_seq) ON feeds TO tasks_eraser")
    for table in TABLES:
        op.execute(f"CREATE POLICY erased ON {table} TO tasks_eraser USING ({OWN_ROWS})")


def _create_function() -> None:
    """For a moment, its new owner needs CREATE on the schema."""
    op.execute("""
        CREATE FUNCTION erase_account(account text, batch integer) RETURNS boolean
        LANGUAGE plpgsql SECURITY DEFINER AS $$
        DECLARE
            rest uuid := (SELECT id FROM tasks WHERE user_id = account ORDER BY id LIMIT 1 OFFSET batch);
            live integer;
        BEGIN
            IF rest IS NOT NULL THEN
                WITH gone AS (
                    DELETE FROM tasks WHERE user_id = account AND id < rest RETURNING deleted_at
                )
                SELECT count(*) INTO live FROM gone WHERE deleted_at IS NULL;
                UPDATE feeds SET seq = seq + 1, purged_seq = seq + 1, live_tasks = live_tasks - live
                    WHERE user_id = account;
                RETURN false;
            END IF;
            DELETE FROM tasks WHERE user_id = account;
            DELETE FROM idempotency_keys WHERE user_id = account;
            DELETE FROM feeds WHERE user_id = account;
            RETURN true;
        END
        $$
    """)
    op.execute("REVOKE ALL ON FUNCTION erase_account(text, integer) FROM PUBLIC")
    op.execute("GRANT EXECUTE ON FUNCTION erase_account(text, integer) TO tasks_api")
    op.execute("""
        DO $$
        BEGIN
            EXECUTE format(
                'ALTER FUNCTION erase_account(text, integer) SET search_path = %I, pg_temp', current_schema()
            );
            EXECUTE format('GRANT CREATE ON SCHEMA %I TO tasks_eraser', current_schema());
            ALTER FUNCTION erase_account(text, integer) OWNER TO tasks_eraser;
            EXECUTE format('REVOKE CREATE ON SCHEMA %I FROM tasks_eraser', current_schema());
        END
        $$
    """)
