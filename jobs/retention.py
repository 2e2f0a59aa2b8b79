"""Which jobs' files have had their time, and which belong to no job that could still want them."""

from __future__ import annotations

import time
from collections.abc import Collection

from sqlalchemy import ColumnElement, TextClause, delete, func, select, update

from jobs.admission import IDEMPOTENCY_S
from jobs.database import Database
from jobs.lifecycle import CANCELED
from jobs.record import Job, read_job
from jobs.schema import KEPT, LIVE, idempotency_keys, job_store, jobs
from jobs.usage import forget_old

IDS_AT_ONCE = 500


class Retention:
    """CreateRequest by any number of sweepers at once: everything here may be done twice."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def store_id(self) -> str:
        """Which job store this is. Another, however it came to be asked, knows nothing of this one's jobs."""
        with self._database.read() as connection:
            store_id: str = connection.execute(select(job_store.c.id)).scalar_one()
        return store_id

    def due(self, limit: int = IDS_AT_ONCE) -> list[Job]:
        """Completed jobs whose files have had their time, the longest due first."""
        query = select(jobs).where(KEPT, jobs.c.expires_at <= time.time())
        with self._database.read() as connection:
            return [read_job(row) for row in connection.execute(query.order_by(jobs.c.expires_at).limit(limit))]

    def mark_expired(self, job_id: str) -> None:
        """Record that the files are gone. Only after they are: whoever dies in between leaves the job due."""
        with self._database.write() as connection:
            # No event tells of it: what a job's stream is about has ended.
            connection.execute(update(jobs).where(jobs.c.id == job_id, KEPT).values(expired=True))

    def without_live_job(self, job_ids: Collection[str]) -> set[str]:
        """Those of some ids whose job has ended, or is not there."""
        return self._without(job_ids, LIVE)

    def without_job(self, job_ids: Collection[str]) -> set[str]:
        """Those of some ids that belong to no job, or to one that was canceled."""
        return self._without(job_ids, func.coalesce(jobs.c.error_code, "") != CANCELED)

    def forget_old(self) -> None:
        """Drop idempotency keys and usage that no request can refer to any more."""
        with self._database.write() as connection:
            now = time.time()
            connection.execute(delete(idempotency_keys).where(idempotency_keys.c.created_at < now - IDEMPOTENCY_S))
            forget_old(connection, now)

    def _without(self, job_ids: Collection[str], such: ColumnElement[bool] | TextClause) -> set[str]:
        ids = list(job_ids)
        without = set(ids)
        with self._database.read() as connection:
            for start in range(0, len(ids), IDS_AT_ONCE):
                query = select(jobs.c.id).where(jobs.c.id.in_(ids[start : start + IDS_AT_ONCE]), such)
                without.difference_update(connection.execute(query).scalars())
        return without
