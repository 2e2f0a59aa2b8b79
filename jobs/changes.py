"""The one way a job changes: the row, the event that tells of it and what its end brings along, in one transaction."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, TextClause, bindparam, case, delete, insert, select, update

from jobs.lifecycle import Leg, Status, before, event_of
from jobs.priority import HAD_ITS_TURN
from jobs.record import Job, read_job
from jobs.schema import job_events, jobs
from jobs.usage import charge
from jobs.webhooks import enqueue


@dataclass(frozen=True, slots=True)
class Position:
    """Where a job is within a leg."""

    leg: Leg
    progress: int  # percent of the whole job
    step: int | None
    replica: str

    def is_of(self, job: Job) -> bool:
        """Whether the job is still there. A denoiser is a job's own before it reports."""
        return job.leg is self.leg and (self.leg is not Leg.DENOISE or job.replica == self.replica)

    def applied_to(self, job: Job) -> Job:
        """Progress never falls, also not over a retry."""
        progress, version = max(job.progress, self.progress), job.version + 1
        return dataclasses.replace(job, progress=progress, step=self.step, replica=self.replica, version=version)


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


def report(connection: Connection, positions: Mapping[str, Position]) -> set[str]:
    """Record how far the jobs under some leases are, all together; returns the leases that are still valid.

    A report that comes late, for a leg or a denoiser that its job has left, changes nothing.
    """
    query = select(jobs).where(jobs.c.lease_token.in_(positions)).order_by(jobs.c.id).with_for_update()
    held = {row.lease_token: read_job(row) for row in connection.execute(query)}
    moved = [job for token, job in held.items() if positions[token].is_of(job)]
    if moved:
        moved = [positions[job.lease_token or ""].applied_to(job) for job in moved]
        columns = ("progress", "step", "replica", "version")
        given = [{"this": job.id, **{f"new_{name}": getattr(job, name) for name in columns}} for job in moved]
        values: dict[str, Any] = {name: bindparam(f"new_{name}") for name in columns}
        connection.execute(update(jobs).where(jobs.c.id == bindparam("this")).values(**values), given)
        connection.execute(insert(job_events), [_event(job) for job in moved])
    return set(held)


def ended_values(status: Status, code: str | None = None, message: str | None = None) -> dict[str, Any]:
    """What every end of a job has in common. Its checkpoint has nothing left to resume."""
    return {
        "status": status, "completed_at": time.time(), "error_code": code, "error_message": message,
        "checkpoint": None, **NO_LEASE,
    }  # fmt: skip


def tell(connection: Connection, job: Job) -> None:
    """Append the event of a job's present version."""
    connection.execute(insert(job_events).values(**_event(job)))


def _event(job: Job) -> dict[str, Any]:
    error = None if job.error_code is None else {"code": job.error_code, "message": job.error_message or ""}
    data = {
        "status": job.status, "leg": job.leg, "progress": job.progress, "step": job.step,
        "attempts": job.attempts, "error": error,
    }  # fmt: skip
    kind = event_of(job.status, job.error_code)
    return {"job_id": job.id, "version": job.version, "kind": kind, "at": time.time(), "data": data}


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
