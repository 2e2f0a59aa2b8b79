"""The one way a job changes: the row, the event that tells of it and what its end brings along, in one transaction."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

from sqlalchemy import ColumnElement, Connection, TextClause, case, delete, insert, update

from jobs.lifecycle import Leg, Status, before, event_of
from jobs.priority import HAD_ITS_TURN
from jobs.record import Job, read_job
from jobs.schema import job_events, jobs
from jobs.usage import charge
from jobs.webhooks import enqueue

NO_LEASE: dict[str, Any] = {"lease_owner": None, "lease_token": None, "lease_expires_at": None, "replica": None}
_RANK = jobs.c.queue_rank
BEFORE_OTHERS = case((_RANK < 0, _RANK), else_=_RANK - HAD_ITS_TURN)
"""The rank of a job that is given back, however often."""
OLD_TURN = case((_RANK < 0, _RANK + HAD_ITS_TURN), else_=_RANK)
"""The rank that it had before."""


def change(
    connection: Connection,
    *where: ColumnElement[bool] | TextClause,
    from_states: Collection[Status] | None = None,
    **values: Any,
) -> list[Job]:
    """Change the jobs that `where` finds; returns them as they are now.

    A new state is only reached from one that `lifecycle.NEXT` allows, or from those that the caller names: a job whose
    lease expired is claimed while it is in progress, and a dead one is driven again.
    """
    if "status" in values:
        where = (*where, jobs.c.status.in_(before(values["status"]) if from_states is None else from_states))
    statement = update(jobs).where(*where).values(version=jobs.c.version + 1, **values).returning(jobs)
    changed = [read_job(row) for row in connection.execute(statement).all()]
    for job in changed:
        if job.ended and "status" in values:
            _settle(connection, job)
        tell(connection, job)
    return changed


def ended_values(status: Status, code: str | None = None, message: str | None = None) -> dict[str, Any]:
    """What every end of a job has in common. Its checkpoint has nothing left to resume."""
    return {
        "status": status, "completed_at": time.time(), "error_code": code, "error_message": message,
        "checkpoint": None, **NO_LEASE,
    }  # fmt: skip


def tell(connection: Connection, job: Job) -> None:
    """Append the event of a job's present version."""
    error = None if job.error_code is None else {"code": job.error_code, "message": job.error_message or ""}
    data = {
        "status": job.status, "leg": job.leg, "progress": job.progress, "step": job.step,
        "attempts": job.attempts, "error": error,
    }  # fmt: skip
    kind = event_of(job.status, job.error_code)
    event = {"job_id": job.id, "version": job.version, "kind": kind, "at": time.time(), "data": data}
    connection.execute(insert(job_events).values(**event))


def _settle(connection: Connection, job: Job) -> None:
    # Once a job has ended nobody needs to be told how it got there: a history of progress would only grow.
    progress = event_of(Status.IN_PROGRESS, None)
    connection.execute(delete(job_events).where(job_events.c.job_id == job.id, job_events.c.kind == progress))
    charge(connection, job.api_key, gpu_seconds=_computed(job))
    if job.webhook_url is not None:
        enqueue(connection, job)


def _computed(job: Job) -> float:
    """Seconds of computing that a job has used, as well as they are known."""
    if job.leg_seconds:
        return sum(seconds for leg, seconds in job.leg_seconds.items() if leg != Leg.PUBLISH)
    return job.cost_s * job.progress / 100
