"""Say the family in the parameters of the jobs that were accepted before there was a second one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from alembic import op
from sqlalchemy import JSON, Column, MetaData, String, Table, select, update

revision = "0003"
down_revision = "0002"

jobs = Table("jobs", MetaData(), Column("id", String, primary_key=True), Column("parameters", JSON))


def upgrade() -> None:
    _rewrite(lambda parameters: {"family": "ltx", **parameters})


def downgrade() -> None:
    _rewrite(lambda parameters: {name: value for name, value in parameters.items() if name != "family"})


def _rewrite(change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    connection = op.get_bind()
    for job_id, parameters in connection.execute(select(jobs.c.id, jobs.c.parameters)).all():
        connection.execute(update(jobs).where(jobs.c.id == job_id).values(parameters=change(parameters)))
