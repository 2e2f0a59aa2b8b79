"""Forget the checkpoints that are stored in the other version's format: those denoises begin anew.

From here on a job's checkpoints are kept by the node of its stage graph, each with a fingerprint.
"""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"

FORGET = "UPDATE jobs SET checkpoint = NULL WHERE checkpoint IS NOT NULL"


def upgrade() -> None:
    op.execute(FORGET)


def downgrade() -> None:
    op.execute(FORGET)
