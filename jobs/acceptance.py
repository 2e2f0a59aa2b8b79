"""Accepts a job and finds out whether it did when the answer to the commit is lost.

A transaction whose commit was sent and not answered may have been carried out. The job's id tells: it is new, so it is
in the job store if and only if that transaction, and no other, has put it there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

from sqlalchemy import select, text
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from jobs import admission
from jobs.admission import Limits, Repeatable
from jobs.database import LOCKED_S, UNREACHABLE, Database, serialize
from jobs.record import Job, read_job
from jobs.schema import jobs

LOOK_FOR_S = 5.0
"""How long a job store that went away may take to be back. A client waits for its answer meanwhile."""


class Admit(Protocol):
    """What `admission.accept` does in a database, alone or together with others."""

    def __call__(
        self, job: Job, limits: Limits, repeatable: Repeatable | None, *, begun: Callable[[], None]
    ) -> Job: ...


class OutcomeUnknown(Exception):
    """The job store went away while it stored a job, and is not back to say whether it did."""


def accept(
    database: Database,
    job: Job,
    limits: Limits,
    repeatable: Repeatable | None = None,
    *,
    admit: Admit | None = None,
    look_for_s: float = LOOK_FOR_S,
) -> Job:
    """Do what `admission.accept` does; if its transaction failed on the way, find out whether it was carried out.

    Args:
        admit: does it in its place.

    Raises:
        Refused, KeyReused: as `admission.accept` does.
        OutcomeUnknown: the job may be stored.
        UNREACHABLE: the job is not stored, and will not be.
    """
    began = False

    def begun() -> None:
        nonlocal began
        began = True

    try:
        return (admit or partial(admission.accept, database))(job, limits, repeatable, begun=begun)
    except UNREACHABLE as error:
        # An error that names no statement is that of a connection or, once a transaction has begun, of its commit.
        if not began or getattr(error, "statement", None) is not None:
            raise
        stored = _look(database, job, look_for_s)
        if stored is None:
            raise
        return stored


def _look(database: Database, job: Job, for_s: float) -> Job | None:
    """The job as it is stored; None if it is not, and no transaction is left that could still store it."""
    again = Retrying(
        retry=retry_if_exception_type(UNREACHABLE), stop=stop_after_delay(for_s), wait=wait_fixed(0.25), reraise=True
    )
    try:
        return again(_find, database, job)
    except UNREACHABLE as error:
        raise OutcomeUnknown(job.id) from error


def _find(database: Database, job: Job) -> Job | None:
    with database.write() as connection:
        if connection.dialect.name == "postgresql":
            # The server may not have noticed yet that the lost connection is closed.
            connection.execute(text(f"SET LOCAL lock_timeout = '{LOCKED_S:.0f}s'"))
        # The lost transaction has waited here too, and holds the lock until it has ended in one way or the other.
        serialize(connection, f"accept {job.model}")
        row = connection.execute(select(jobs).where(jobs.c.id == job.id)).one_or_none()
    return read_job(row) if row else None
