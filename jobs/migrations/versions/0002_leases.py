"""Indexes that find a lease by its token or expiry without reading the finished jobs."""

from __future__ import annotations

from alembic import op
from sqlalchemy import text

revision = "0002"
down_revision = "0001"

HELD = text("lease_token IS NOT NULL")


def upgrade() -> None:
    op.create_index("jobs_by_lease", "jobs", ["lease_token"], unique=True, sqlite_where=HELD, postgresql_where=HELD)
    op.create_index("jobs_by_lease_expiry", "jobs", ["lease_expires_at"], sqlite_where=HELD, postgresql_where=HELD)


def downgrade() -> None:
    op.drop_index("jobs_by_lease_expiry", "jobs")
    op.drop_index("jobs_by_lease", "jobs")
