"""The keys under which tasks were created, so that a create can be repeated.

Source: specs/database/schema.md.
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        CREATE TABLE idempotency_keys (
            user_id text NOT NULL,
            slot smallint NOT NULL,
            key_hash bytea NOT NULL,
            fingerprint bytea NOT NULL,
            task_id uuid NOT NULL,
            created_at timestamp with time zone NOT NULL,
            CONSTRAINT pk_idempotency_keys PRIMARY KEY (user_id, slot),
            CONSTRAINT ck_idempotency_keys_user_id_length CHECK (char_length(user_id) BETWEEN 1 AND 255),
            CONSTRAINT ck_idempotency_keys_slot_bounded CHECK (slot BETWEEN 0 AND 9999)
        )
    """)
    op.create_index("ix_idempotency_keys_user_id_key_hash", "idempotency_keys", ["user_id", "key_hash"])
    op.execute("GRANT SELECT, INSERT ON idempotency_keys TO tasks_api")
    op.execute("GRANT UPDATE (key_hash, fingerprint, task_id, created_at) ON idempotency_keys TO tasks_api")
    op.execute("ALTER TABLE idempotency_keys ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE idempotency_keys FORCE ROW LEVEL SECURITY")
    op.execute("""
        CREATE POLICY own_keys ON idempotency_keys TO tasks_api
            USING (user_id = (SELECT NULLIF(current_setting('app.user_id', true), '')))
            WITH CHECK (user_id = (SELECT NULLIF(current_setting('app.user_id', true), '')))
    """)


def downgrade() -> None:
    op.drop_table("idempotency_keys")
