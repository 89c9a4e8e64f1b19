"""The table `tasks`, the role that requests use, its privileges, and row security.

Source: specs/database/schema.md.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

UPDATABLE = (
    "title, description, completed, completed_at, priority, due_at, tags, version, updated_at, deleted_at"
)


def upgrade() -> None:
    _create_table()
    _create_role()
    _grant()
    _guard()


def downgrade() -> None:
    """Keep the role: roles are shared by all databases of a server, and another one may use it."""
    op.drop_table("tasks")
    op.execute("REVOKE ALL ON alembic_version FROM tasks_api")
    op.execute(
        "DO $$ BEGIN EXECUTE format('REVOKE USAGE ON SCHEMA %I FROM tasks_api', current_schema()); END $$"
    )


def _create_table() -> None:
    timestamp = sa.DateTime(timezone=True)
    op.create_table(
        "tasks",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("description", sa.Text()),
        sa.Column("completed", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("completed_at", timestamp),
        sa.Column("priority", sa.Text(), server_default="medium", nullable=False),
        sa.Column("due_at", timestamp),
        sa.Column("tags", postgresql.ARRAY(sa.Text()), server_default="{}", nullable=False),
        sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("created_at", timestamp, server_default=sa.func.now(), nullable=False),
        sa.Column("updated_at", timestamp, server_default=sa.func.now(), nullable=False),
        sa.Column("deleted_at", timestamp),
        sa.PrimaryKeyConstraint("user_id", "id", name="pk_tasks"),
        *(
            sa.CheckConstraint(condition, name=op.f(f"ck_tasks_{name}"))
            for name, condition in {
                "user_id_length": "char_length(user_id) BETWEEN 1 AND 255",
                "title_length": "char_length(title) BETWEEN 1 AND 200",
                "description_length": "char_length(description) <= 5000",
                "completed_at_agrees": "completed = (completed_at IS NOT NULL)",
                "priority_known": "priority IN ('low', 'medium', 'high')",
                "due_at_range": "due_at >= '1970-01-01 00:00:00+00' AND due_at < '10000-01-01 00:00:00+00'",
                "tags_flat": "cardinality(tags) <= 20 AND coalesce(array_ndims(tags), 1) = 1"
                " AND array_position(tags, NULL) IS NULL",
                "version_positive": "version >= 1",
            }.items()
        ),
    )
    op.create_index(
        "ix_tasks_user_id_completed_id",
        "tasks",
        ["user_id", "completed", "id"],
        postgresql_where=sa.text("deleted_at IS NULL"),
    )


def _create_role() -> None:
    """Create the role if it does not exist, and allow the migrating user to SET ROLE to it.

    Since PostgreSQL 16 the creator of a role may grant it, but cannot SET ROLE to it without
    a grant.
    """
    op.execute("""
        DO $$
        BEGIN
            IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'tasks_api') THEN
                CREATE ROLE tasks_api NOLOGIN NOINHERIT;
            END IF;
            IF current_setting('server_version_num')::int >= 160000 THEN
                IF NOT pg_has_role(current_user, 'tasks_api', 'SET') THEN
                    EXECUTE 'GRANT tasks_api TO CURRENT_USER WITH SET TRUE, INHERIT FALSE';
                END IF;
            ELSIF NOT pg_has_role(current_user, 'tasks_api', 'MEMBER') THEN
                GRANT tasks_api TO CURRENT_USER;
            END IF;
        END
        $$
    """)


def _grant() -> None:
    op.execute(
        "DO $$ BEGIN EXECUTE format('GRANT USAGE ON SCHEMA %I TO tasks_api', current_schema()); END $$"
    )
    op.execute("GRANT SELECT ON alembic_version TO tasks_api")
    op.execute("GRANT SELECT, INSERT ON tasks TO tasks_api")
    op.execute(f"GRANT UPDATE ({UPDATABLE}) ON tasks TO tasks_api")


def _guard() -> None:
    """Enable row security. The sub-select in the policy is evaluated per statement, not per row."""
    op.execute("ALTER TABLE tasks ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE tasks FORCE ROW LEVEL SECURITY")
    op.execute("""
        CREATE POLICY own_tasks ON tasks TO tasks_api
            USING (user_id = (SELECT NULLIF(current_setting('app.user_id', true), '')))
            WITH CHECK (user_id = (SELECT NULLIF(current_setting('app.user_id', true), '')))
    """)
