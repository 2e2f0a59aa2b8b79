"""Where a job has its files, since an operator may choose it for new jobs at any time."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, Text

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("jobs", Column("folder", Text))


def downgrade() -> None:
    op.drop_column("jobs", "folder")
