"""The tables, in SQLAlchemy Core. `migrations/` creates them in a database; a test checks that the two agree."""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Boolean, Column, Float, Index, Integer, MetaData, String, Table, Text, text

from jobs.stored import Checkpoints, ResultMetadata, Stored

metadata = MetaData()
# Literal SQL, so that both databases can prove that a partial index serves a query with the same condition.
HELD = text("lease_token IS NOT NULL")
LIVE = text("completed_at IS NULL")
KEPT = text("expires_at IS NOT NULL AND NOT expired")
WAITING = text("delivered_at IS NULL")
SETTLED = text("delivered_at IS NOT NULL")

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
    Column("api_key", String(64), nullable=False, server_default=""),
    Column("priority", String(8), nullable=False, server_default="normal"),
    Column("work", JSON, nullable=False, server_default="{}"),
    Column("cost_s", Float, nullable=False, server_default="0"),
    Column("fair_start", Float, nullable=False, server_default="0"),
    Column("queue_rank", Float, nullable=False, server_default="0"),
    Column("fresh", Boolean, nullable=False, server_default=text("true")),
    Column("output", JSON, nullable=False, server_default="{}"),
    Column("webhook_url", Text),
    Column("expires_in_s", Float),
    Column("expires_at", Float),
    Column("expired", Boolean, nullable=False, server_default=text("false")),
    Column("remixed_from", String(48)),
    Column("folder", Text),
    Column("status", String(16), nullable=False),
    Column("stage", String(16)),
    Column("replica", String(64)),
    Column("progress", Integer, nullable=False),
    Column("step", Integer),
    Column("checkpoint", Stored(Checkpoints)),
    Column("attempts", Integer, nullable=False),
    Column("not_before", Float, nullable=False),
    Column("started_at", Float),
    Column("completed_at", Float),
    Column("stage_seconds", JSON, nullable=False),
    Column("result_metadata", Stored(ResultMetadata), nullable=False),
    Column("error_code", String(64)),
    Column("error_message", Text),
    Column("lease_owner", String(128)),
    Column("lease_token", String(48)),
    Column("lease_expires_at", Float),
    Column("version", Integer, nullable=False, server_default="0"),
    Index("jobs_by_status", "status", "id"),
    Index("jobs_by_key", "api_key", "id"),
    # `cost_s` is there so that the sum of a backlog needs nothing else.
    Index("jobs_by_turn", "model", "status", "fresh", "queue_rank", "id", "cost_s"),
    # Few jobs are live, leased or due to expire, so these indexes stay small however long the history is.
    Index("jobs_by_flow", "model", "api_key", "priority", "fair_start", sqlite_where=LIVE, postgresql_where=LIVE),
    Index("jobs_live_by_key", "api_key", sqlite_where=LIVE, postgresql_where=LIVE),
    Index("jobs_by_lease", "lease_token", unique=True, sqlite_where=HELD, postgresql_where=HELD),
    Index("jobs_by_lease_expiry", "lease_expires_at", sqlite_where=HELD, postgresql_where=HELD),
    Index("jobs_by_expiry", "expires_at", sqlite_where=KEPT, postgresql_where=KEPT),
)

QUEUE_ORDER = (jobs.c.fresh, jobs.c.queue_rank, jobs.c.id)
"""The order in which queued jobs are claimed: both databases sort false before true. It is that of `jobs_by_turn`."""

job_events = Table(
    "job_events",
    metadata,
    Column("job_id", String(48), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("at", Float, nullable=False),
    Column("data", JSON, nullable=False),
)

job_store = Table(  # one row
    "job_store",
    metadata,
    Column("id", String(32), primary_key=True),  # identifies this store: artifacts belong to the jobs of one store
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("api_key", String(64), primary_key=True),
    Column("key", String(256), primary_key=True),
    Column("fingerprint", String(64), nullable=False),
    Column("job_id", String(48), nullable=False, index=True),
    Column("created_at", Float, nullable=False, index=True),
)

stage_costs = Table(  # decayed sums over finished jobs, which determine a straight line of seconds over work
    "stage_costs",
    metadata,
    Column("model", String(128), primary_key=True),
    Column("stage", String(16), primary_key=True),
    Column("n", Float, nullable=False),
    Column("x", Float, nullable=False),
    Column("y", Float, nullable=False),
    Column("xx", Float, nullable=False),
    Column("xy", Float, nullable=False),
)

usage = Table(
    "usage",
    metadata,
    Column("api_key", String(64), primary_key=True),
    Column("minute", BigInteger, primary_key=True),
    Column("requests", Integer, nullable=False),
    Column("gpu_seconds", Float, nullable=False),
)

webhooks = Table(
    "webhooks",
    metadata,
    Column("id", String(48), primary_key=True),
    Column("job_id", String(48), nullable=False),
    Column("url", Text, nullable=False),
    Column("payload", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_at", Float, nullable=False),
    Column("delivered_at", Float),  # or when the delivery was given up, and then `error` says why
    Column("error", Text),
    Index("webhooks_by_turn", "next_at", sqlite_where=WAITING, postgresql_where=WAITING),
    Index("webhooks_by_settling", "delivered_at", sqlite_where=SETTLED, postgresql_where=SETTLED),
)

stage_failures = Table(  # the deployments whose last start failed
    "stage_failures",
    metadata,
    Column("deployment", String(256), primary_key=True),
    Column("deployed_at", Float, nullable=False),  # when the application was deployed that the failures belong to
    Column("failures", Integer, nullable=False),  # in a row
    Column("message", Text, nullable=False),  # of the last one
    Column("at", Float, nullable=False),
    Column("refusing", JSON, nullable=False, server_default="[]"),  # the replicas that refuse their calls
)

pins = Table(  # the commits that hub repositories' branches and tags stand for in this service
    "pins",
    metadata,
    Column("repo", String(256), primary_key=True),
    Column("revision", String(256), primary_key=True),
    Column("commit", String(64), nullable=False),
    Column("pinned_at", Float, nullable=False),
)
