"""The one way a job changes: the row, the event that tells of it and what its end brings along, in one transaction."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, TextClause, case, delete, insert, select, update
from sqlalchemy.sql.dml import ReturningUpdate

from jobs.database import update_each
from jobs.lifecycle import Status, before, event_of
from jobs.priority import HAD_ITS_TURN
from jobs.record import Job, read_job
from jobs.schema import job_events, jobs
from jobs.usage import charge
from jobs.webhooks import enqueue
from pipelines.stages import Stage


@dataclass(frozen=True, slots=True)
class Position:
    """Where a job is: at the beginning of a stage, or within one.

    One from within that comes late, for a stage or a denoiser that the job has left, is of no job.
    """

    stage: Stage
    progress: int  # percent of the whole job; what is recorded never falls, also not over a retry
    step: int | None = None
    replica: str | None = None
    begins: bool = False

    def is_of(self, job: Job) -> bool:
        """Whether the job may go there. A denoiser is a job's own before it reports."""
        return self.begins or (
            job.stage is self.stage and (self.stage is not Stage.DENOISE or job.replica == self.replica)
        )

    def values(self, job: Job) -> dict[str, Any]:
        """What it changes of the job."""
        progress = max(job.progress, self.progress)
        return {"stage": self.stage, "progress": progress, "step": self.step, "replica": self.replica}


SEEN = ("status", "stage", "progress", "step", "attempts", "error_code", "error_message")
"""What the events of a job tell of it."""
NO_LEASE: dict[str, Any] = {"lease_owner": None, "lease_token": None, "lease_expires_at": None, "replica": None}
_RANK = jobs.c.queue_rank
BEFORE_OTHERS = case((_RANK < 0, _RANK), else_=_RANK - HAD_ITS_TURN)
"""The rank of a job that is given back, however often."""
OLD_TURN = case((_RANK < 0, _RANK + HAD_ITS_TURN), else_=_RANK)
"""The rank that it had before."""


def change(
    connection: Connection,
    *where: ColumnElement[bool] | TextClause,
    status: Status,
    from_states: Collection[Status] | None = None,
    **values: Any,
) -> list[Job]:
    """Bring the jobs that `where` finds to a state, with other values; returns them as they are now.

    It is only reached from one that `lifecycle.NEXT` allows, or from those that the caller names: a job whose lease
    expired is claimed while it is in progress, and a dead one is driven again.
    """
    return carry_out(connection, changing(*where, status=status, from_states=from_states, **values))


def changing(
    *where: ColumnElement[bool] | TextClause,
    status: Status,
    from_states: Collection[Status] | None = None,
    **values: Any,
) -> ReturningUpdate[Any]:
    """The same for `carry_out`: a statement can be made once, with parameters, and carried out often."""
    reachable = jobs.c.status.in_(before(status) if from_states is None else from_states)
    values = {"status": status, "version": jobs.c.version + 1, **values}
    return update(jobs).where(*where, reachable).values(values).returning(jobs)


def carry_out(connection: Connection, statement: ReturningUpdate[Any], **parameters: Any) -> list[Job]:
    """Change jobs as `changing` says; returns them as they are now."""
    changed = [read_job(row) for row in connection.execute(statement, parameters).all()]
    _follow_up(connection, changed)
    return changed


def hold_each(connection: Connection, tokens: Collection[str]) -> dict[str, Job]:
    """The jobs under these leases, by lease, locked for `change_each`."""
    query = select(jobs).where(jobs.c.lease_token.in_(tokens)).order_by(jobs.c.id).with_for_update()
    return {row.lease_token: read_job(row) for row in connection.execute(query)}


def change_each(connection: Connection, changes: Sequence[tuple[Job, dict[str, Any]]]) -> list[Job]:
    """Change jobs that `hold_each` has locked, each to values of its own, which name the same columns for all.

    Returns them as they are now. What a client cannot see, such as another replica, has no event.
    """
    seen = {
        job.id
        for job, values in changes
        if any(name in SEEN and value != getattr(job, name) for name, value in values.items())
    }
    changes = [(job, {**values, "version": job.version + (job.id in seen)}) for job, values in changes]
    update_each(connection, jobs, [{"id": job.id, **values} for job, values in changes])
    changed = [dataclasses.replace(job, **values) for job, values in changes]
    _follow_up(connection, [job for job in changed if job.id in seen])
    return changed


def ended_values(status: Status, code: str | None = None, message: str | None = None) -> dict[str, Any]:
    """What every end of a job has in common. Its checkpoint has nothing left to resume."""
    return {
        "status": status, "completed_at": time.time(), "error_code": code, "error_message": message,
        "checkpoint": None, **NO_LEASE,
    }  # fmt: skip


def tell(connection: Connection, changed: Sequence[Job]) -> None:
    """Append the event of each job's present version."""
    if changed:
        connection.execute(insert(job_events), [_event(job) for job in changed])


def _event(job: Job) -> dict[str, Any]:
    error = None if job.error_code is None else {"code": job.error_code, "message": job.error_message or ""}
    data = {
        "status": job.status, "stage": job.stage, "progress": job.progress, "step": job.step,
        "attempts": job.attempts, "error": error,
    }  # fmt: skip
    kind = event_of(job.status, job.error_code)
    return {"job_id": job.id, "version": job.version, "kind": kind, "at": time.time(), "data": data}


def _follow_up(connection: Connection, changed: Sequence[Job]) -> None:
    """What every change brings along."""
    _settle(connection, [job for job in changed if job.ended])
    tell(connection, changed)


def _settle(connection: Connection, ended: Sequence[Job]) -> None:
    if not ended:
        return
    # Once a job has ended nobody needs to be told how it got there: a history of progress would only grow.
    of, progress = job_events.c.job_id.in_([job.id for job in ended]), event_of(Status.IN_PROGRESS, None)
    connection.execute(delete(job_events).where(of, job_events.c.kind == progress))
    for job in ended:
        if job.webhook_url is not None:
            enqueue(connection, job)
    for api_key in sorted({job.api_key for job in ended}):  # in one order, as others wait for the same rows
        seconds = sum(_computed(job) for job in ended if job.api_key == api_key)
        charge(connection, api_key, time.time(), gpu_seconds=seconds)


def _computed(job: Job) -> float:
    """Seconds of computing that a job has used, as well as they are known."""
    if job.stage_seconds:
        return sum(seconds for stage, seconds in job.stage_seconds.items() if stage != Stage.PUBLISH)
    return job.cost_s * job.progress / 100
