"""Jobs in a database: insert, read, claim by lease, and writes that only the lease's holder may make.

Every write after a claim names the lease's token, so a conductor that was presumed dead cannot overwrite its successor;
such a write changes no row and returns False. Methods block for a disk write; call them from a thread.
"""

from __future__ import annotations

import dataclasses
import random
import time
import uuid
from collections.abc import Collection
from typing import Any

from sqlalchemy import Column, ColumnElement, ScalarSelect, and_, case, delete, func, insert, select, update
from sqlalchemy.engine import Row

from jobs.database import Database, DatabaseUnusable
from jobs.lifecycle import ENDED, Leg, Status, before, progress_at
from jobs.record import Job
from jobs.schema import jobs

RETRY_DELAY_S, LONGEST_RETRY_DELAY_S = 1.0, 60.0
CANCELED = "canceled"
SERVER_ERROR = "server_error"
"""The code of a job whose every attempt ended in a fault: it is dead-lettered; an operator may drive it again."""


class JobStore:
    """Shared by any number of processes: on one machine with SQLite, on any number with PostgreSQL.

    Raises:
        DatabaseUnusable: PostgreSQL's tables are not this version's. SQLite's are brought up to date here.
    """

    def __init__(self, url: str) -> None:
        self._database = Database(url)
        if self._database.is_sqlite:
            self._database.migrate()
        else:
            try:
                self._database.require_current()
            except DatabaseUnusable:
                self.close()
                raise

    def close(self) -> None:
        """Close the pooled connections."""
        self._database.close()

    def insert(self, job: Job) -> None:
        with self._database.write() as connection:
            connection.execute(insert(jobs).values(**dataclasses.asdict(job)))

    def get(self, job_id: str) -> Job | None:
        with self._database.read() as connection:
            row = connection.execute(select(jobs).where(jobs.c.id == job_id)).one_or_none()
        return _job(row) if row else None

    def page(self, *, after: str | None, limit: int, newest_first: bool) -> tuple[list[Job], bool]:
        """Up to `limit` jobs in order of creation, starting behind the id `after`, and whether there are more."""
        query = select(jobs).order_by(jobs.c.id.desc() if newest_first else jobs.c.id.asc()).limit(limit + 1)
        if after is not None:
            query = query.where(jobs.c.id < after if newest_first else jobs.c.id > after)
        with self._database.read() as connection:
            found = [_job(row) for row in connection.execute(query)]
        return found[:limit], len(found) > limit

    def delete(self, job_id: str) -> bool:
        """Forget a job. A conductor that is rendering it finds its lease gone and stops."""
        with self._database.write() as connection:
            return connection.execute(delete(jobs).where(jobs.c.id == job_id)).rowcount == 1

    def cancel(self, job_id: str) -> Job | None:
        """End a live job; one that has ended stays as it is. A conductor that renders it finds its lease gone."""
        live = and_(jobs.c.id == job_id, jobs.c.status.in_(before(Status.FAILED)))
        ended = {"status": Status.FAILED, "completed_at": time.time(), "error_code": CANCELED}
        with self._database.write() as connection:
            message = "the video was canceled"
            connection.execute(update(jobs).where(live).values(**ended, error_message=message, **_NO_LEASE))
        return self.get(job_id)

    def claim(self, owner: str, models: Collection[str], lease_s: float, max_attempts: int) -> Job | None:
        """Take a job of `models`: the one whose lease expired first, else the oldest that waits.

        One whose attempts are spent is left for `fail_spent`.
        """
        now = time.time()
        abandoned = _first(jobs.c.lease_expires_at, models, *_abandoned(now), jobs.c.attempts < max_attempts)
        waiting = _first(jobs.c.id, models, jobs.c.status == Status.QUEUED, jobs.c.not_before <= now)
        claimed = (
            update(jobs)
            .where(jobs.c.id == func.coalesce(abandoned, waiting))
            .values(
                status=Status.IN_PROGRESS,
                leg=Leg.ENCODE,
                progress=_at_least(progress_at(Leg.ENCODE)),
                attempts=jobs.c.attempts + 1,
                started_at=func.coalesce(jobs.c.started_at, now),
                lease_owner=owner,
                lease_token=uuid.uuid4().hex,
                lease_expires_at=now + lease_s,
            )
            .returning(jobs)
        )
        with self._database.write() as connection:
            row = connection.execute(claimed).one_or_none()
        return _job(row) if row else None

    def fail_spent(self, max_attempts: int, message: str) -> list[tuple[str, str]]:
        """Fail the jobs whose last attempt ended with its conductor, without a word; returns ids and models."""
        now = time.time()
        spent = update(jobs).where(*_abandoned(now), jobs.c.attempts >= max_attempts)
        ended = {"status": Status.FAILED, "completed_at": now, "error_code": SERVER_ERROR, "error_message": message}
        with self._database.write() as connection:
            failed = connection.execute(spent.values(**ended, **_NO_LEASE).returning(jobs.c.id, jobs.c.model))
            return [(job_id, model) for job_id, model in failed]

    def renew(self, tokens: Collection[str], lease_s: float) -> set[str]:
        """Extend leases; returns the tokens that are still valid."""
        with self._database.write() as connection:
            renewed = connection.execute(
                update(jobs)
                .where(jobs.c.lease_token.in_(tokens))
                .values(lease_expires_at=time.time() + lease_s)
                .returning(jobs.c.lease_token)
            )
            return set(renewed.scalars())

    def advance(self, token: str, leg: Leg, done: float = 0.0) -> bool:
        """Record where a job is."""
        return self._write(token, leg=leg, progress=_at_least(progress_at(leg, done)))

    def complete(self, token: str, leg_seconds: dict[str, float], facts: dict[str, Any]) -> bool:
        return self._end(token, Status.COMPLETED, progress=100, leg_seconds=leg_seconds, facts=facts)

    def fail(self, token: str, code: str, message: str) -> bool:
        return self._end(token, Status.FAILED, error_code=code, error_message=message)

    def retry(self, token: str, attempt: int, message: str, max_attempts: int) -> Status | None:
        """Queue a job again after a fault, or fail it when its attempts are spent. None when the lease was lost.

        The wait doubles with every attempt, give or take half of it: what failed together is not retried together.
        """
        spent = jobs.c.attempts >= max_attempts
        now = time.time()
        values = {
            "status": case((spent, Status.FAILED), else_=Status.QUEUED),
            "completed_at": case((spent, now), else_=None),
            "not_before": now + retry_delay_s(attempt),
            "leg": case((spent, jobs.c.leg), else_=None),
            "error_code": case((spent, SERVER_ERROR), else_=None),
            "error_message": case((spent, message), else_=None),
            **_NO_LEASE,
        }
        with self._database.write() as connection:
            query = update(jobs).where(jobs.c.lease_token == token).values(values).returning(jobs.c.status)
            status = connection.execute(query).scalar_one_or_none()
        return Status(status) if status else None

    def release(self, token: str) -> bool:
        """Give a job back untried: the attempt does not count."""
        return self._write(token, status=Status.QUEUED, leg=None, attempts=jobs.c.attempts - 1, **_NO_LEASE)

    def dead(self, limit: int) -> list[Job]:
        """Jobs whose every attempt ended in a fault, the latest first."""
        query = select(jobs).where(*_DEAD).order_by(jobs.c.id.desc()).limit(limit)
        with self._database.read() as connection:
            return [_job(row) for row in connection.execute(query)]

    def redrive(self, job_id: str) -> bool:
        """Queue a dead job as if it were new; whether there was one."""
        anew = {
            "status": Status.QUEUED, "attempts": 0, "leg": None, "not_before": 0.0, "completed_at": None,
            "error_code": None, "error_message": None,
        }  # fmt: skip
        with self._database.write() as connection:
            return connection.execute(update(jobs).where(*_DEAD, jobs.c.id == job_id).values(**anew)).rowcount == 1

    def counts(self) -> dict[tuple[str, Status], int]:
        """How many jobs of each model are in each state."""
        query = select(jobs.c.model, jobs.c.status, func.count()).group_by(jobs.c.model, jobs.c.status)
        with self._database.read() as connection:
            return {(model, Status(status)): count for model, status, count in connection.execute(query)}

    def oldest_queued_at(self) -> float | None:
        with self._database.read() as connection:
            query = select(func.min(jobs.c.created_at)).where(jobs.c.status == Status.QUEUED)
            oldest: float | None = connection.execute(query).scalar_one()
        return oldest

    def _end(self, token: str, status: Status, **values: Any) -> bool:
        assert status in ENDED
        return self._write(token, status=status, completed_at=time.time(), **_NO_LEASE, **values)

    def _write(self, token: str, **values: Any) -> bool:
        allowed = jobs.c.lease_token == token
        if "status" in values:
            allowed = and_(allowed, jobs.c.status.in_(before(values["status"])))
        with self._database.write() as connection:
            return connection.execute(update(jobs).where(allowed).values(**values)).rowcount == 1


_DEAD = (jobs.c.status == Status.FAILED, jobs.c.error_code == SERVER_ERROR)
_NO_LEASE: dict[str, Any] = {"lease_owner": None, "lease_token": None, "lease_expires_at": None}


def retry_delay_s(attempt: int) -> float:
    """Seconds until a job is tried again after its attempt number `attempt` (from 1) ended in a fault."""
    return min(RETRY_DELAY_S * 2.0 ** (attempt - 1), LONGEST_RETRY_DELAY_S) * random.uniform(0.5, 1.5)


def _job(row: Row[Any]) -> Job:
    values = row._asdict()
    values["status"] = Status(values["status"])
    values["leg"] = Leg(values["leg"]) if values["leg"] else None
    return Job(**values)


def _first(order: Column[Any], models: Collection[str], *conditions: ColumnElement[bool]) -> ScalarSelect[Any]:
    """The id of the first such job. PostgreSQL passes over what another claim has in hand; SQLite has one writer.

    Each order is that of an index that leads there past no finished job: a history costs nothing.
    """
    query = select(jobs.c.id).where(*conditions, jobs.c.model.in_(models)).order_by(order).limit(1)
    return query.with_for_update(skip_locked=True).scalar_subquery()


def _abandoned(now: float) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """Held under a lease that nobody renews any more."""
    return jobs.c.lease_token.is_not(None), jobs.c.lease_expires_at < now


def _at_least(progress: int) -> ColumnElement[int]:
    """Progress never falls, also not when a retry starts over."""
    return case((jobs.c.progress < progress, progress), else_=jobs.c.progress)
