"""Which job store this is, so that no other one's sweeper takes its artifacts for files of no job."""

from __future__ import annotations

import uuid

from alembic import op
from sqlalchemy import Column, String

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    job_store = op.create_table("job_store", Column("id", String(32), primary_key=True))
    op.bulk_insert(job_store, [{"id": uuid.uuid4().hex}])


def downgrade() -> None:
    op.drop_table("job_store")
