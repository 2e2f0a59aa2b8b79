"""Submission: one transaction makes a job durable, checks its idempotency key and limits, and sets its turn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection, delete, select

from jobs.clock import read_now
from jobs.database import Database, insert_if_absent, serialize
from jobs.intake import Limits, Refused, check_rate, take_in
from jobs.record import Job, read_job
from jobs.schema import idempotency_keys, jobs
from jobs.usage import charge

__all__ = ["KeyReused", "Limits", "Refused", "Repeatable", "accept", "count_request"]

IDEMPOTENCY_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Repeatable:
    """A client's idempotency key, and the fingerprint of the request it stands for."""

    key: str
    fingerprint: str


class KeyReused(Exception):
    """The idempotency key already stands for another request."""


def accept(
    database: Database,
    job: Job,
    limits: Limits,
    repeatable: Repeatable | None = None,
    *,
    clock: Callable[[Connection], float] = read_now,
    begun: Callable[[], None] = lambda: None,
) -> Job:
    """Store a job with its turn and estimated cost, or return the job that its idempotency key already stands for.

    Args:
        clock: gives the time in seconds since the epoch; that of one machine is not another's, so it is the database's.
        begun: told once the transaction has begun, from when on its outcome may be unknown.

    Raises:
        Refused: a limit is reached. Nothing is stored.
        KeyReused: the idempotency key stands for another request. Nothing is stored.
    """
    with database.write() as connection:
        begun()
        now = clock(connection)
        if repeatable is not None and (known := _known(connection, job, repeatable, now)) is not None:
            return known
        (outcome,) = take_in(connection, [(job, limits)], now)
        if isinstance(outcome, Refused):
            raise outcome
        return outcome


def count_request(database: Database, api_key: str, limits: Limits) -> None:
    """Count a request that creates no job. Raises Refused."""
    with database.write() as connection:
        serialize(connection, f"requests of {api_key}")
        now = read_now(connection)
        check_rate(connection, api_key, limits, now)
        charge(connection, api_key, now, requests=1)


def _known(connection: Connection, job: Job, repeatable: Repeatable, now: float) -> Job | None:
    """The job that a key stands for; None when the key is new. A new key stands for `job` from now on."""
    keys = idempotency_keys.c
    this = (keys.api_key == job.api_key, keys.key == repeatable.key)
    # This deletes only this key, if it has expired; the sweeper deletes the others.
    connection.execute(delete(idempotency_keys).where(*this, keys.created_at < now - IDEMPOTENCY_S))
    row = {"api_key": job.api_key, "key": repeatable.key, "fingerprint": repeatable.fingerprint, "job_id": job.id}
    while not insert_if_absent(connection, idempotency_keys, **row, created_at=now):
        found = connection.execute(select(keys.job_id, keys.fingerprint).where(*this)).one_or_none()
        if found is None:
            continue  # the key's job was deleted in between, and the key with it
        if found.fingerprint != repeatable.fingerprint:
            raise KeyReused
        known = connection.execute(select(jobs).where(jobs.c.id == found.job_id)).one_or_none()
        if known is not None:
            return read_job(known)
        connection.execute(delete(idempotency_keys).where(*this, keys.job_id == found.job_id))
    return None
