"""What the purge may do: delete tasks that are in the trash, and expired keys, and note it in the feed.

Source: specs/database/schema.md.
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE feeds ADD COLUMN purged_seq bigint NOT NULL DEFAULT 0")
    op.execute("GRANT DELETE ON tasks, idempotency_keys TO tasks_maintenance")
    op.execute("GRANT SELECT (user_id, slot, created_at) ON idempotency_keys TO tasks_maintenance")
    op.execute("GRANT SELECT (user_id, purged_seq), UPDATE (purged_seq) ON feeds TO tasks_maintenance")
    op.execute(
        "CREATE POLICY purged_tasks ON tasks FOR DELETE TO tasks_maintenance USING (deleted_at IS NOT NULL)"
    )
    op.execute("CREATE POLICY found_keys ON idempotency_keys FOR SELECT TO tasks_maintenance USING (true)")
    op.execute(
        "CREATE POLICY expired_keys ON idempotency_keys FOR DELETE TO tasks_maintenance"
        " USING (created_at <= now() - interval '24 hours')"
    )
    op.execute("CREATE POLICY found_feeds ON feeds FOR SELECT TO tasks_maintenance USING (true)")
    op.execute("CREATE POLICY purged_feeds ON feeds FOR UPDATE TO tasks_maintenance USING (true)")


def downgrade() -> None:
    for policy, table in (
        ("purged_feeds", "feeds"),
        ("found_feeds", "feeds"),
        ("expired_keys", "idempotency_keys"),
        ("found_keys", "idempotency_keys"),
        ("purged_tasks", "tasks"),
    ):
        op.execute(f"DROP POLICY {policy} ON {table}")
    op.execute("REVOKE ALL ON feeds, idempotency_keys FROM tasks_maintenance")
    op.execute("REVOKE DELETE ON tasks FROM tasks_maintenance")
    op.execute("ALTER TABLE feeds DROP COLUMN purged_seq")
