"""Jobs as clients and operators see them: read, page, cancel, delete, queue again. Conductors use `leases`.

Methods block for the database; call them from a thread.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, bindparam, delete, func, select

from jobs.allocation import HAS_DENOISER
from jobs.changes import change, ended_values
from jobs.costs import LEFT_S, Line, read_lines
from jobs.database import Database
from jobs.intake import WAITING
from jobs.lifecycle import CANCELED, ENDED, SERVER_ERROR, Status
from jobs.record import Job, read_job
from jobs.schema import LIVE, QUEUE_ORDER, idempotency_keys, job_events, jobs
from pipelines.stages import Stage


@dataclass(frozen=True, slots=True)
class Event:
    """A change of a job. `version` counts a job's changes from 1 and is the event's id in the stream."""

    version: int
    kind: str  # queued, progress, completed, failed, canceled
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Waiting:
    """A queued job, with the values that determine the wait of the jobs behind it."""

    id: str
    cost_s: float


_JOB = select(jobs).where(jobs.c.id == bindparam("job_id"))
_VERSIONS = select(jobs.c.id, jobs.c.version).where(jobs.c.id.in_(bindparam("job_ids", expanding=True)))


class JobStore:
    """The job store. Any number of processes may share it: on one machine with SQLite, on many with PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, job_id: str) -> Job | None:
        with self._database.read() as connection:
            row = connection.execute(_JOB, {"job_id": job_id}).one_or_none()
        return read_job(row) if row else None

    def page(
        self, *, after: str | None, limit: int, newest_first: bool, api_key: str | None = None
    ) -> tuple[list[Job], bool]:
        """Up to `limit` jobs in order of creation, starting after the id `after`, and whether there are more.

        With `api_key`, only jobs that this key submitted.
        """
        query = select(jobs).order_by(jobs.c.id.desc() if newest_first else jobs.c.id.asc()).limit(limit + 1)
        if api_key is not None:
            query = query.where(jobs.c.api_key == api_key)
        if after is not None:
            query = query.where(jobs.c.id < after if newest_first else jobs.c.id > after)
        with self._database.read() as connection:
            found = [read_job(row) for row in connection.execute(query)]
        return found[:limit], len(found) > limit

    def cancel(self, job_id: str) -> Job | None:
        """Cancel a live job; an ended job stays as it is. A conductor that runs the job then finds its lease gone."""
        canceled = ended_values(Status.FAILED, CANCELED, "the video was canceled")
        with self._database.write() as connection:
            changed = change(connection, jobs.c.id == job_id, **canceled)
        return changed[0] if changed else self.get(job_id)

    def delete(self, job_id: str) -> bool:
        """Delete a job. A conductor that runs the job finds its lease gone and stops."""
        with self._database.write() as connection:
            # A live job is canceled first, so that its usage is charged and its webhook is sent.
            change(connection, jobs.c.id == job_id, **ended_values(Status.FAILED, CANCELED, "the video was deleted"))
            connection.execute(delete(job_events).where(job_events.c.job_id == job_id))
            connection.execute(delete(idempotency_keys).where(idempotency_keys.c.job_id == job_id))
            return connection.execute(delete(jobs).where(jobs.c.id == job_id)).rowcount == 1

    def dead(self, limit: int) -> list[Job]:
        """Dead-lettered jobs, whose every attempt ended in a fault, newest first."""
        query = select(jobs).where(*_DEAD).order_by(jobs.c.id.desc()).limit(limit)
        with self._database.read() as connection:
            return [read_job(row) for row in connection.execute(query)]

    def redrive(self, job_id: str) -> bool:
        """Queue a dead-lettered job again as if it were new; returns whether there was one."""
        anew: dict[str, Any] = {
            "status": Status.QUEUED, "attempts": 0, "stage": None, "step": None, "progress": 0, "not_before": 0.0,
            "completed_at": None, "error_code": None, "error_message": None, "fresh": True,
        }  # fmt: skip
        with self._database.write() as connection:
            return bool(change(connection, *_DEAD, jobs.c.id == job_id, from_states=(Status.FAILED,), **anew))

    def events(self, job_id: str, after: int) -> list[Event]:
        """The events of a job after the event number `after`. An ended job keeps no progress events."""
        columns = job_events.c.version, job_events.c.kind, job_events.c.data
        query = select(*columns).where(job_events.c.job_id == job_id, job_events.c.version > after)
        with self._database.read() as connection:
            return [Event(*row) for row in connection.execute(query.order_by(job_events.c.version))]

    def versions(self, job_ids: Collection[str]) -> dict[str, int]:
        """The current version of each of these jobs; the result omits jobs that no longer exist."""
        with self._database.read() as connection:
            return {row.id: row.version for row in connection.execute(_VERSIONS, {"job_ids": list(job_ids)})}

    def queue(self, model: str) -> list[Waiting]:
        """The queued jobs of a model, in the order in which they will be claimed."""
        query = select(jobs.c.id, jobs.c.cost_s).where(jobs.c.model == model, jobs.c.status == Status.QUEUED)
        with self._database.read() as connection:
            return [Waiting(*row) for row in connection.execute(query.order_by(*QUEUE_ORDER))]

    def waiting(self, model: str) -> tuple[int, float]:
        """The number of queued jobs of a model, and their estimated seconds of computing."""
        with self._database.read() as connection:
            row = connection.execute(WAITING, {"model": model}).one()
        return row[0], float(row[1])

    def working(self, model: str) -> dict[Stage, tuple[int, float]]:
        """The number of a model's jobs in each stage, and the estimated seconds of computing that they still need."""
        query = select(jobs.c.stage, func.count(), func.sum(LEFT_S)).where(
            jobs.c.model == model, jobs.c.status == Status.IN_PROGRESS
        )
        with self._database.read() as connection:
            rows = connection.execute(query.group_by(jobs.c.stage))
            counted = [(Stage.named(name), count, float(left_s)) for name, count, left_s in rows]
            return {stage: (count, left_s) for stage, count, left_s in counted if stage is not None}

    def denoising(self, model: str) -> int:
        """The number of denoisers that a model's jobs occupy. Jobs that wait in `denoise`, without a replica, do not
        count."""
        busy = (jobs.c.status == Status.IN_PROGRESS, HAS_DENOISER)
        query = select(func.count()).where(jobs.c.model == model, *busy)
        with self._database.read() as connection:
            count: int = connection.execute(query).scalar_one()
        return count

    def lines(self, model: str) -> dict[Stage, Line]:
        """The cost lines of a model, fitted to its finished jobs."""
        with self._database.read() as connection:
            return read_lines(connection, model)

    def counts(self) -> dict[tuple[str, Status], int]:
        """The number of live jobs of each model in each state."""
        # Not LIVE: with it SQLite reads the whole history, in the order of an index by model and status.
        live = jobs.c.status.in_(set(Status) - ENDED)
        query = select(jobs.c.model, jobs.c.status, func.count()).where(live).group_by(jobs.c.model, jobs.c.status)
        with self._database.read() as connection:
            return {(model, Status(status)): count for model, status, count in connection.execute(query)}

    def backlog_s(self) -> dict[str, float]:
        """Estimated seconds of computing that each model's live jobs still need."""
        left = func.sum(LEFT_S).label("seconds")
        with self._database.read() as connection:
            rows = connection.execute(select(jobs.c.model, left).where(LIVE).group_by(jobs.c.model))
            return {row.model: row.seconds for row in rows}

    def oldest_queued_at(self) -> float | None:
        with self._database.read() as connection:
            query = select(func.min(jobs.c.created_at)).where(jobs.c.status == Status.QUEUED)
            oldest: float | None = connection.execute(query).scalar_one()
        return oldest


_DEAD: tuple[ColumnElement[bool], ...] = (jobs.c.status == Status.FAILED, jobs.c.error_code == SERVER_ERROR)
