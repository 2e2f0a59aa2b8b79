"""The table of jobs."""

from __future__ import annotations

from alembic import op
from sqlalchemy import JSON, Boolean, Column, Float, Integer, String, Text

revision = "0001"
down_revision = None


def upgrade() -> None:
    """`if_not_exists`, for the stores that were made before there were migrations."""
    op.create_table(
        "jobs",
        Column("id", String(48), primary_key=True),
        Column("model", String(128), nullable=False),
        Column("prompt", Text, nullable=False),
        Column("parameters", JSON, nullable=False),
        Column("created_at", Float, nullable=False),
        Column("has_image", Boolean, nullable=False),
        Column("user", String(256)),
        Column("status", String(16), nullable=False),
        Column("leg", String(16)),
        Column("progress", Integer, nullable=False),
        Column("attempts", Integer, nullable=False),
        Column("not_before", Float, nullable=False),
        Column("started_at", Float),
        Column("completed_at", Float),
        Column("leg_seconds", JSON, nullable=False),
        Column("facts", JSON, nullable=False),
        Column("error_code", String(64)),
        Column("error_message", Text),
        Column("lease_owner", String(128)),
        Column("lease_token", String(48)),
        Column("lease_expires_at", Float),
        if_not_exists=True,
    )
    op.create_index("jobs_by_status", "jobs", ["status", "id"], if_not_exists=True)


def downgrade() -> None:
    op.drop_table("jobs")
