"""Turns, checkpoints, events, API keys, webhooks, retention: what a job needs to be never lost, and fairly served."""

from __future__ import annotations

from alembic import op
from sqlalchemy import JSON, BigInteger, Boolean, Column, Float, Integer, String, Text, text

revision = "0004"
down_revision = "0003"

LIVE = text("completed_at IS NULL")
KEPT = text("expires_at IS NOT NULL AND NOT expired")
WAITING = text("delivered_at IS NULL")


def upgrade() -> None:
    for column in (
        Column("api_key", String(64), nullable=False, server_default=""),
        Column("priority", String(8), nullable=False, server_default="normal"),
        Column("work", JSON, nullable=False, server_default="{}"),
        Column("cost_s", Float, nullable=False, server_default="0"),
        Column("fair_start", Float, nullable=False, server_default="0"),
        Column("queue_rank", Float, nullable=False, server_default="0"),
        Column("output", JSON, nullable=False, server_default="{}"),
        Column("webhook_url", Text),
        Column("expires_in_s", Float),
        Column("expires_at", Float),
        Column("expired", Boolean, nullable=False, server_default=text("false")),
        Column("remixed_from", String(48)),
        Column("replica", String(64)),
        Column("step", Integer),
        Column("checkpoint", JSON),
        Column("version", Integer, nullable=False, server_default="0"),
    ):
        op.add_column("jobs", column)
    op.create_index("jobs_by_key", "jobs", ["api_key", "id"])
    op.create_index("jobs_by_turn", "jobs", ["model", "status", "queue_rank", "id", "cost_s"])
    flow = ["model", "api_key", "priority", "fair_start"]
    op.create_index("jobs_by_flow", "jobs", flow, sqlite_where=LIVE, postgresql_where=LIVE)
    op.create_index("jobs_live_by_key", "jobs", ["api_key"], sqlite_where=LIVE, postgresql_where=LIVE)
    op.create_index("jobs_by_expiry", "jobs", ["expires_at"], sqlite_where=KEPT, postgresql_where=KEPT)
    op.create_table(
        "job_events",
        Column("job_id", String(48), primary_key=True),
        Column("version", Integer, primary_key=True),
        Column("kind", String(16), nullable=False),
        Column("at", Float, nullable=False),
        Column("data", JSON, nullable=False),
    )
    op.create_table(
        "idempotency_keys",
        Column("api_key", String(64), primary_key=True),
        Column("key", String(256), primary_key=True),
        Column("fingerprint", String(64), nullable=False),
        Column("job_id", String(48), nullable=False),
        Column("created_at", Float, nullable=False),
    )
    op.create_index("ix_idempotency_keys_job_id", "idempotency_keys", ["job_id"])
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"])
    op.create_table(
        "leg_costs",
        Column("model", String(128), primary_key=True),
        Column("leg", String(16), primary_key=True),
        *(Column(name, Float, nullable=False) for name in ("n", "x", "y", "xx", "xy")),
    )
    op.create_table(
        "usage",
        Column("api_key", String(64), primary_key=True),
        Column("minute", BigInteger, primary_key=True),
        Column("requests", Integer, nullable=False),
        Column("gpu_seconds", Float, nullable=False),
    )
    op.create_table(
        "webhooks",
        Column("id", String(48), primary_key=True),
        Column("job_id", String(48), nullable=False),
        Column("url", Text, nullable=False),
        Column("payload", Text, nullable=False),
        Column("created_at", Float, nullable=False),
        Column("attempts", Integer, nullable=False),
        Column("next_at", Float, nullable=False),
        Column("delivered_at", Float),
        Column("error", Text),
    )
    op.create_index("webhooks_by_turn", "webhooks", ["next_at"], sqlite_where=WAITING, postgresql_where=WAITING)


def downgrade() -> None:
    for table in ("webhooks", "usage", "leg_costs", "idempotency_keys", "job_events"):
        op.drop_table(table)
    for index in ("jobs_by_expiry", "jobs_live_by_key", "jobs_by_flow", "jobs_by_turn", "jobs_by_key"):
        op.drop_index(index, "jobs")
    columns = "api_key priority work cost_s fair_start queue_rank output webhook_url expires_in_s expires_at expired "
    for column in (columns + "remixed_from replica step checkpoint version").split():
        op.drop_column("jobs", column)
