"""Remember why stages could not start, and the commits to which the weights of hub repositories are pinned."""

from __future__ import annotations

from alembic import op
from sqlalchemy import JSON, Column, Float, Integer, String, Text

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.create_table(
        "stage_failures",
        Column("deployment", String(256), primary_key=True),
        Column("deployed_at", Float, nullable=False),
        Column("failures", Integer, nullable=False),
        Column("message", Text, nullable=False),
        Column("at", Float, nullable=False),
        Column("refusing", JSON, nullable=False, server_default="[]"),
    )
    op.create_table(
        "pins",
        Column("repo", String(256), primary_key=True),
        Column("revision", String(256), primary_key=True),
        Column("commit", String(64), nullable=False),
        Column("pinned_at", Float, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("pins")
    op.drop_table("stage_failures")
