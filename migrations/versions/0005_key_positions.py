"""The position at which a key created its task, from which the entity tag of the response follows.

Keys of the previous version have position 0, which no task has. Source: specs/database/schema.md.
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE idempotency_keys ADD COLUMN seq bigint NOT NULL DEFAULT 0")
    op.execute("GRANT UPDATE (seq) ON idempotency_keys TO tasks_api")


def downgrade() -> None:
    op.execute("ALTER TABLE idempotency_keys DROP COLUMN seq")
