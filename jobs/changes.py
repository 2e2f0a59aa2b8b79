"""The only way to change a job: one transaction writes the row, its event, and what follows from a job's end."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Column, ColumnElement, Connection, Select, TextClause, bindparam, delete, insert, select, update
from sqlalchemy.sql.dml import ReturningUpdate

from jobs.clock import NOW
from jobs.database import update_each
from jobs.lifecycle import Status, before, event_of
from jobs.record import Job, read_job
from jobs.schema import job_events, jobs
from jobs.usage import charge
from jobs.webhooks import enqueue
from pipelines.stages import Stage


@dataclass(frozen=True, slots=True)
class Position:
    """Where a job is: at the beginning of a stage, or within one.

    A late report from within a stage, or from a denoiser, that the job has left applies to no job.
    """

    stage: Stage
    progress: int  # percent of the whole job; the recorded value never falls, even over a retry
    step: int | None = None
    replica: str | None = None
    begins: bool = False

    def is_of(self, job: Place) -> bool:
        """Whether this position applies to the job. A denoiser is assigned to a job before it reports progress."""
        return self.begins or (
            job.stage == self.stage and (self.stage is not Stage.DENOISE or job.replica == self.replica)
        )

    def values(self, job: Place) -> dict[str, Any]:
        """The columns that this position changes."""
        progress = max(job.progress, self.progress)
        return {"stage": self.stage, "progress": progress, "step": self.step, "replica": self.replica}


@dataclass(frozen=True, slots=True)
class Place:
    """What a change of position needs of a job's row."""

    id: str
    lease_token: str
    lease_expires_at: float
    status: str
    stage: str | None
    replica: str | None
    progress: int
    step: int | None
    attempts: int
    error_code: str | None
    error_message: str | None
    version: int


SEEN = ("status", "stage", "progress", "step", "attempts", "error_code", "error_message")
"""The columns that a job's events show."""
NO_LEASE: dict[str, Any] = {"lease_owner": None, "lease_token": None, "lease_expires_at": None, "replica": None}


def change(
    connection: Connection,
    *where: ColumnElement[bool] | TextClause,
    status: Status,
    from_states: Collection[Status] | None = None,
    **values: Any,
) -> list[Job]:
    """Move the jobs that match `where` to a state and set other values; returns the changed jobs.

    Only states that `lifecycle.NEXT` allows can precede it, or those in `from_states`: a job whose lease expired is
    claimed while it is in progress, and a dead-lettered job is queued again.
    """
    return carry_out(connection, changing(*where, status=status, from_states=from_states, **values))


def changing(
    *where: ColumnElement[bool] | TextClause,
    status: Status,
    from_states: Collection[Status] | None = None,
    **values: Any,
) -> ReturningUpdate[Any]:
    """The statement of `change`, for `carry_out`: it can be built once, with parameters, and run often."""
    reachable = jobs.c.status.in_(before(status) if from_states is None else from_states)
    values = {"status": status, "version": jobs.c.version + 1, **values}
    return update(jobs).where(*where, reachable).values(values).returning(jobs)


def carry_out(connection: Connection, statement: ReturningUpdate[Any], **parameters: Any) -> list[Job]:
    """Run a statement that `changing` built; returns the changed jobs."""
    changed = [read_job(row) for row in connection.execute(statement, parameters).all()]
    _follow_up(connection, changed)
    return changed


UNDER_LEASE = jobs.c.lease_token.in_(bindparam("tokens", expanding=True))
"""The jobs under the leases of the statement's parameter `tokens`, a list."""


def _held(*columns: Column[Any]) -> Select[Any]:
    return select(*columns, NOW).where(UNDER_LEASE).order_by(jobs.c.id).with_for_update(of=jobs)


# Built once: to build a statement takes longer than to run it.
_HELD_JOBS = _held(*jobs.c)
_HELD_PLACES = _held(*(jobs.c[each.name] for each in dataclasses.fields(Place)))


def hold_each(connection: Connection, tokens: Collection[str]) -> tuple[dict[str, Job], float]:
    """Lock the jobs under these leases for `change_each`; returns them by lease, and the database's time."""
    rows = connection.execute(_HELD_JOBS, {"tokens": list(tokens)}).all()
    return {row.lease_token: read_job(row) for row in rows}, rows[0][-1] if rows else 0.0


def hold_places(connection: Connection, tokens: Collection[str]) -> tuple[dict[str, Place], float]:
    """The same, of the few columns that a change of position needs: most changes are such."""
    rows = connection.execute(_HELD_PLACES, {"tokens": list(tokens)}).all()
    return {row.lease_token: Place(*row[:-1]) for row in rows}, rows[0][-1] if rows else 0.0


J = TypeVar("J", Job, Place)


def change_each(connection: Connection, changes: Sequence[tuple[J, dict[str, Any]]]) -> list[J]:
    """Change locked jobs, each to its own values; all values name the same columns.

    Returns the changed jobs. A change that clients cannot see, such as another replica, has no event.
    """
    seen = {
        job.id
        for job, values in changes
        if any(name in SEEN and value != getattr(job, name) for name, value in values.items())
    }
    changes = [(job, {**values, "version": job.version + (job.id in seen)}) for job, values in changes]
    update_each(connection, jobs, [{"id": job.id, **values} for job, values in changes])
    changed = [dataclasses.replace(job, **values) for job, values in changes]
    _settle(connection, _ended(changed))
    tell(connection, [job for job in changed if job.id in seen])
    return changed


def _ended(changed: Sequence[Job | Place]) -> list[Job]:
    return [job for job in changed if isinstance(job, Job) and job.ended]


def ended_values(
    status: Status, code: str | None = None, message: str | None = None, *, at: float | ColumnElement[float] = NOW
) -> dict[str, Any]:
    """The columns that every end of a job sets. It clears the checkpoint, as nothing is left to resume."""
    return {
        "status": status, "completed_at": at, "error_code": code, "error_message": message,
        "checkpoint": None, **NO_LEASE,
    }  # fmt: skip


_INSERT_EVENT = insert(job_events)


def tell(connection: Connection, changed: Sequence[Job | Place]) -> None:
    """Append the event of each job's present version."""
    if changed:
        connection.execute(_INSERT_EVENT, [_event(job) for job in changed])


def _event(job: Job | Place) -> dict[str, Any]:
    error = None if job.error_code is None else {"code": job.error_code, "message": job.error_message or ""}
    data = {
        "status": job.status, "stage": job.stage, "progress": job.progress, "step": job.step,
        "attempts": job.attempts, "error": error,
    }  # fmt: skip
    kind = event_of(Status(job.status), job.error_code)
    return {"job_id": job.id, "version": job.version, "kind": kind, "at": time.time(), "data": data}


def _follow_up(connection: Connection, changed: Sequence[Job]) -> None:
    """Do what every change requires: settle ended jobs and append events."""
    _settle(connection, [job for job in changed if job.ended])
    tell(connection, changed)


def _settle(connection: Connection, ended: Sequence[Job]) -> None:
    if not ended:
        return
    # Clients of an ended job do not need its progress events, and keeping them would only grow the table.
    of, progress = job_events.c.job_id.in_([job.id for job in ended]), event_of(Status.IN_PROGRESS, None)
    connection.execute(delete(job_events).where(of, job_events.c.kind == progress))
    for job in ended:
        if job.webhook_url is not None:
            enqueue(connection, job)
    now = max(job.completed_at or 0.0 for job in ended)
    for api_key in sorted({job.api_key for job in ended}):  # in a fixed order: other transactions lock the same rows
        seconds = sum(_computed(job) for job in ended if job.api_key == api_key)
        charge(connection, api_key, now, gpu_seconds=seconds)


def _computed(job: Job) -> float:
    """Seconds of computing that a job has used: measured, or else estimated from its progress."""
    if job.stage_seconds:
        return sum(seconds for stage, seconds in job.stage_seconds.items() if stage != Stage.PUBLISH)
    return job.cost_s * job.progress / 100
