"""Jobs in SQLite: insert, read, claim by lease, and writes that only the lease's holder may make.

Every write after a claim names the lease's token, so a conductor that was presumed dead cannot overwrite its successor;
such a write changes no row and returns False. Methods block for a disk write; call them from a thread.
"""

from __future__ import annotations

import dataclasses
import time
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, and_, case, create_engine, delete, event, func, insert, or_, select, update
from sqlalchemy.engine import Row

from jobs.lifecycle import ENDED, Leg, Status, before, progress_at
from jobs.record import Job
from jobs.schema import jobs, metadata

RETRY_DELAY_S = 1.0
READ_ONLY = "kinoray_read_only"


class JobStore:
    """One SQLite file in WAL mode, shared by any number of processes on one machine."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 4}, hide_parameters=True)
        event.listen(self._engine, "connect", _configure)
        event.listen(self._engine, "begin", _begin)
        with self._transaction() as connection:
            metadata.create_all(connection)

    def insert(self, job: Job) -> None:
        with self._transaction() as connection:
            connection.execute(insert(jobs).values(**dataclasses.asdict(job)))

    def get(self, job_id: str) -> Job | None:
        with self._snapshot() as connection:
            row = connection.execute(select(jobs).where(jobs.c.id == job_id)).one_or_none()
        return _job(row) if row else None

    def page(self, *, after: str | None, limit: int, newest_first: bool) -> tuple[list[Job], bool]:
        """Up to `limit` jobs in order of creation, starting behind the id `after`, and whether there are more."""
        query = select(jobs).order_by(jobs.c.id.desc() if newest_first else jobs.c.id.asc()).limit(limit + 1)
        if after is not None:
            query = query.where(jobs.c.id < after if newest_first else jobs.c.id > after)
        with self._snapshot() as connection:
            found = [_job(row) for row in connection.execute(query)]
        return found[:limit], len(found) > limit

    def delete(self, job_id: str) -> bool:
        """Forget a job. A conductor that is rendering it finds its lease gone and stops."""
        with self._transaction() as connection:
            return connection.execute(delete(jobs).where(jobs.c.id == job_id)).rowcount == 1

    def claim(self, owner: str, models: Collection[str], lease_s: float) -> Job | None:
        """Take the oldest job of `models` that waits, or whose lease has expired."""
        now = time.time()
        waiting = and_(jobs.c.status == Status.QUEUED, jobs.c.not_before <= now)
        abandoned = and_(jobs.c.status == Status.IN_PROGRESS, jobs.c.lease_expires_at < now)
        oldest = select(jobs.c.id).where(or_(waiting, abandoned), jobs.c.model.in_(models)).order_by(jobs.c.id).limit(1)
        claimed = (
            update(jobs)
            .where(jobs.c.id == oldest.scalar_subquery())
            .values(
                status=Status.IN_PROGRESS,
                leg=Leg.ENCODE,
                progress=func.max(jobs.c.progress, progress_at(Leg.ENCODE)),
                attempts=jobs.c.attempts + 1,
                started_at=func.coalesce(jobs.c.started_at, now),
                lease_owner=owner,
                lease_token=uuid.uuid4().hex,
                lease_expires_at=now + lease_s,
            )
            .returning(jobs)
        )
        with self._transaction() as connection:
            row = connection.execute(claimed).one_or_none()
        return _job(row) if row else None

    def renew(self, tokens: Collection[str], lease_s: float) -> set[str]:
        """Extend leases; returns the tokens that are still valid."""
        with self._transaction() as connection:
            renewed = connection.execute(
                update(jobs)
                .where(jobs.c.lease_token.in_(tokens))
                .values(lease_expires_at=time.time() + lease_s)
                .returning(jobs.c.lease_token)
            )
            return set(renewed.scalars())

    def advance(self, token: str, leg: Leg, done: float = 0.0) -> bool:
        """Record where a job is. Progress never falls, also not when a retry starts over."""
        return self._write(token, leg=leg, progress=func.max(jobs.c.progress, progress_at(leg, done)))

    def complete(self, token: str, leg_seconds: dict[str, float], facts: dict[str, Any]) -> bool:
        return self._end(token, Status.COMPLETED, progress=100, leg_seconds=leg_seconds, facts=facts)

    def fail(self, token: str, code: str, message: str) -> bool:
        return self._end(token, Status.FAILED, error_code=code, error_message=message)

    def retry(self, token: str, code: str, message: str, max_attempts: int) -> Status | None:
        """Queue a job again after a fault, or fail it when its attempts are spent. None when the lease was lost."""
        spent = jobs.c.attempts >= max_attempts
        now = time.time()
        values = {
            "status": case((spent, Status.FAILED), else_=Status.QUEUED),
            "completed_at": case((spent, now), else_=None),
            "not_before": now + RETRY_DELAY_S,
            "leg": case((spent, jobs.c.leg), else_=None),
            "error_code": case((spent, code), else_=None),
            "error_message": case((spent, message), else_=None),
            **_NO_LEASE,
        }
        with self._transaction() as connection:
            query = update(jobs).where(jobs.c.lease_token == token).values(values).returning(jobs.c.status)
            status = connection.execute(query).scalar_one_or_none()
        return Status(status) if status else None

    def release(self, token: str) -> bool:
        """Give a job back untried: the attempt does not count."""
        return self._write(token, status=Status.QUEUED, leg=None, attempts=jobs.c.attempts - 1, **_NO_LEASE)

    def counts(self) -> dict[tuple[str, Status], int]:
        """How many jobs of each model are in each state."""
        query = select(jobs.c.model, jobs.c.status, func.count()).group_by(jobs.c.model, jobs.c.status)
        with self._snapshot() as connection:
            return {(model, Status(status)): count for model, status, count in connection.execute(query)}

    def oldest_queued_at(self) -> float | None:
        with self._snapshot() as connection:
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
        with self._transaction() as connection:
            return connection.execute(update(jobs).where(allowed).values(**values)).rowcount == 1

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        with self._engine.begin() as connection:
            yield connection

    @contextmanager
    def _snapshot(self) -> Iterator[Connection]:
        """A read that waits for no writer and makes none wait."""
        with self._engine.connect().execution_options(**{READ_ONLY: True}) as connection:
            yield connection


_NO_LEASE: dict[str, Any] = {"lease_owner": None, "lease_token": None, "lease_expires_at": None}


def _job(row: Row[Any]) -> Job:
    values = row._asdict()
    values["status"] = Status(values["status"])
    values["leg"] = Leg(values["leg"]) if values["leg"] else None
    return Job(**values)


def _configure(connection: Any, _record: object) -> None:
    # The driver's own transaction handling starts them lazily and deferred; `_begin` does it instead.
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")


def _begin(connection: Connection) -> None:
    # Immediate: a deferred transaction that reads first and writes later can fail instead of waiting its turn.
    read_only = connection.get_execution_options().get(READ_ONLY, False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")
