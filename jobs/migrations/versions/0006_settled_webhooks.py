"""Find the webhooks that were settled long ago without a look at all of them."""

from __future__ import annotations

from alembic import op
from sqlalchemy import text

revision = "0006"
down_revision = "0005"

SETTLED = text("delivered_at IS NOT NULL")


def upgrade() -> None:
    op.create_index(
        "webhooks_by_settling", "webhooks", ["delivered_at"], sqlite_where=SETTLED, postgresql_where=SETTLED
    )


def downgrade() -> None:
    op.drop_index("webhooks_by_settling", "webhooks")
