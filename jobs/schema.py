"""The table of jobs, in SQLAlchemy Core. `migrations/` brings a database there; a test holds the two together."""

from __future__ import annotations

from sqlalchemy import JSON, Boolean, Column, Float, Index, Integer, MetaData, String, Table, Text, text

metadata = MetaData()
HELD = text("lease_token IS NOT NULL")

jobs = Table(
    "jobs",
    metadata,
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
    Index("jobs_by_status", "status", "id"),
    # Few jobs are held at a time: these stay small whatever the history.
    Index("jobs_by_lease", "lease_token", unique=True, sqlite_where=HELD, postgresql_where=HELD),
    Index("jobs_by_lease_expiry", "lease_expires_at", sqlite_where=HELD, postgresql_where=HELD),
)
