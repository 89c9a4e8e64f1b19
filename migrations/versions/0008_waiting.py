"""A role that sees how far each feed is, for requests that wait for the next change.

Source: specs/database/schema.md.
"""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        DO $$
        BEGIN
            IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'tasks_watcher') THEN
                CREATE ROLE tasks_watcher NOLOGIN NOINHERIT;
            END IF;
            IF current_setting('server_version_num')::int >= 160000 THEN
                IF NOT pg_has_role(current_user, 'tasks_watcher', 'SET') THEN
                    EXECUTE 'GRANT tasks_watcher TO CURRENT_USER WITH SET TRUE, INHERIT FALSE';
                END IF;
            ELSIF NOT pg_has_role(current_user, 'tasks_watcher', 'MEMBER') THEN
                GRANT tasks_watcher TO CURRENT_USER;
            END IF;
            EXECUTE format('GRANT USAGE ON SCHEMA %I TO tasks_watcher', current_schema());
        END
        $$
    """)
    op.execute("GRANT SELECT (user_id, seq) ON feeds TO tasks_watcher")
    op.execute("CREATE POLICY watched_feeds ON feeds FOR SELECT TO tasks_watcher USING (true)")


def downgrade() -> None:
    op.execute("DROP POLICY watched_feeds ON feeds")
    op.execute("REVOKE ALL ON feeds FROM tasks_watcher")
    op.execute(
        "DO $$ BEGIN EXECUTE format('REVOKE USAGE ON SCHEMA %I FROM tasks_watcher', current_schema()); END $$"
    )
