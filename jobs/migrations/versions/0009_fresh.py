"""Say in a column of its own that a job was requeued, instead of by a turn that lies far in the past."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Boolean, Column, text

revision = "0009"
down_revision = "0008"

FAR = "1e12"  # what was subtracted from the turn of a requeued job


def upgrade() -> None:
    op.drop_index("jobs_by_turn", "jobs")
    op.add_column("jobs", Column("fresh", Boolean, nullable=False, server_default=text("true")))
    op.execute(f"UPDATE jobs SET fresh = false, queue_rank = queue_rank + {FAR} WHERE queue_rank < 0")
    op.create_index("jobs_by_turn", "jobs", ["model", "status", "fresh", "queue_rank", "id", "cost_s"])


def downgrade() -> None:
    op.drop_index("jobs_by_turn", "jobs")
    op.execute(f"UPDATE jobs SET queue_rank = queue_rank - {FAR} WHERE NOT fresh")
    op.drop_column("jobs", "fresh")
    op.create_index("jobs_by_turn", "jobs", ["model", "status", "queue_rank", "id", "cost_s"])
