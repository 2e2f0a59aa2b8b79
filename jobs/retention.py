"""Which jobs' files have expired, and which files belong to no job that could still need them."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import ColumnElement, TextClause, delete, func, select, update

from jobs.admission import IDEMPOTENCY_S
from jobs.clock import NOW, read_now
from jobs.database import Database
from jobs.lifecycle import CANCELED
from jobs.record import Job, read_job
from jobs.schema import KEPT, LIVE, idempotency_keys, job_store, jobs
from jobs.usage import forget_old

IDS_AT_ONCE = 500


class Retention:
    """The sweepers' view of the jobs. Any number of sweepers may use it at once: every operation may run twice."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def store_id(self) -> str:
        """The id of this job store. Another store, even if asked by mistake, does not know this store's jobs."""
        with self._database.read() as connection:
            store_id: str = connection.execute(select(job_store.c.id)).scalar_one()
        return store_id

    def due(self, skip: int = 0) -> list[Job]:
        """Completed jobs whose files have expired, the longest overdue first, without the first `skip`."""
        query = select(jobs).where(KEPT, jobs.c.expires_at <= NOW)
        with self._database.read() as connection:
            return [
                read_job(row)
                for row in connection.execute(
                    query.order_by(jobs.c.expires_at, jobs.c.id).offset(skip).limit(IDS_AT_ONCE)
                )
            ]

    def mark_expired(self, job_id: str) -> None:
        """Record that the files are deleted. Call this after the deletion, so a crash in between leaves the job due."""
        with self._database.write() as connection:
            # This writes no event, because the job's event stream has ended.
            connection.execute(update(jobs).where(jobs.c.id == job_id, KEPT).values(expired=True))

    def without_live_job(self, job_ids: Collection[str]) -> set[str]:
        """The given ids whose job has ended or does not exist."""
        return self._without(job_ids, LIVE)

    def without_job(self, job_ids: Collection[str]) -> set[str]:
        """The given ids that belong to no job or to a canceled one."""
        return self._without(job_ids, func.coalesce(jobs.c.error_code, "") != CANCELED)

    def forget_old(self) -> None:
        """Delete idempotency keys and usage that no request can refer to any more."""
        with self._database.write() as connection:
            connection.execute(delete(idempotency_keys).where(idempotency_keys.c.created_at < NOW - IDEMPOTENCY_S))
            forget_old(connection, read_now(connection))

    def _without(self, job_ids: Collection[str], such: ColumnElement[bool] | TextClause) -> set[str]:
        ids = list(job_ids)
        without = set(ids)
        with self._database.read() as connection:
            for start in range(0, len(ids), IDS_AT_ONCE):
                query = select(jobs.c.id).where(jobs.c.id.in_(ids[start : start + IDS_AT_ONCE]), such)
                without.difference_update(connection.execute(query).scalars())
        return without
