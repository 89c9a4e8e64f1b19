"""What a key has done for a batch: the outcome and the task of each operation.

Null for the key of a create. Source: specs/database/schema.md.
"""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE idempotency_keys ADD COLUMN outcomes text[], ADD COLUMN task_ids uuid[]")
    op.execute("GRANT UPDATE (outcomes, task_ids) ON idempotency_keys TO tasks_api")


def downgrade() -> None:
    op.execute("ALTER TABLE idempotency_keys DROP COLUMN outcomes, DROP COLUMN task_ids")
