"""Submission: one transaction makes a job durable, checks its idempotency key and limits, and sets its turn."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, TextClause, delete, func, insert, literal, select

from jobs.changes import tell
from jobs.clock import read_now
from jobs.costs import estimate, read_lines
from jobs.database import Database, insert_if_absent, serialize
from jobs.lifecycle import Status
from jobs.priority import fair_start
from jobs.record import Job, columns_of, read_job
from jobs.schema import LIVE, QUEUE_ORDER, idempotency_keys, jobs
from jobs.usage import charge, gpu_seconds_per_day, requests_per_minute

IDEMPOTENCY_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a model's queue and of each API key; None means no limit."""

    max_queued: int | None = None
    """Most queued jobs of one model."""
    max_backlog_s: float | None = None
    """Most estimated seconds of queued work of one model."""
    requests_per_minute: int | None = None
    live_jobs: int | None = None
    gpu_seconds_per_day: float | None = None


@dataclass(frozen=True, slots=True)
class Repeatable:
    """A client's idempotency key, and the fingerprint of the request it stands for."""

    key: str
    fingerprint: str


class Refused(Exception):
    """A limit is reached; `limit` names it, and the client may retry after `retry_after_s`."""

    def __init__(self, limit: str, retry_after_s: float) -> None:
        super().__init__(limit)
        self.limit = limit
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (*self.args, self.retry_after_s))


class KeyReused(Exception):
    """The idempotency key already stands for another request."""


def accept(
    database: Database,
    job: Job,
    limits: Limits,
    repeatable: Repeatable | None = None,
    *,
    clock: Callable[[Connection], float] = read_now,
) -> Job:
    """Store a job with its turn and estimated cost, or return the job that its idempotency key already stands for.

    `clock` gives the time in seconds since the epoch; that of one machine is not another's, so it is the database's.

    Raises:
        Refused: a limit is reached. Nothing is stored.
        KeyReused: the idempotency key stands for another request. Nothing is stored.
    """
    with database.write() as connection:
        now = clock(connection)
        if repeatable is not None and (known := _known(connection, job, repeatable, now)) is not None:
            return known
        serialize(connection, f"accept {job.model}")
        lines = read_lines(connection, job.model)
        job = dataclasses.replace(job, cost_s=estimate(lines, job.work).computing_s)
        _check(connection, job, limits, now)
        start = fair_start(_clock(connection, job.model), _own_end(connection, job))
        job = dataclasses.replace(job, fair_start=start, queue_rank=start + job.priority.handicap_s, version=1)
        connection.execute(insert(jobs).values(**columns_of(job)))
        tell(connection, [job])
        charge(connection, job.api_key, now, requests=1)
        return job


def count_request(database: Database, api_key: str, limits: Limits) -> None:
    """Count a request that creates no job. Raises Refused."""
    with database.write() as connection:
        serialize(connection, f"requests of {api_key}")
        now = read_now(connection)
        _check_rate(connection, api_key, limits, now)
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


def _check(connection: Connection, job: Job, limits: Limits, now: float) -> None:
    if limits.max_queued is not None or limits.max_backlog_s is not None:
        waiting = _load(connection, jobs.c.model == job.model, jobs.c.status == Status.QUEUED)
        if limits.max_queued is not None and waiting.count >= limits.max_queued:
            raise Refused("max_queued", waiting.one_job_s)
        if limits.max_backlog_s is not None and waiting.count and waiting.cost_s + job.cost_s > limits.max_backlog_s:
            raise Refused("max_backlog_s", waiting.one_job_s)
    _check_rate(connection, job.api_key, limits, now)
    if limits.live_jobs is None and limits.gpu_seconds_per_day is None:
        return
    live = _load(connection, jobs.c.api_key == job.api_key, LIVE)
    if limits.live_jobs is not None and live.count >= limits.live_jobs:
        raise Refused("live_jobs", live.one_job_s)
    if limits.gpu_seconds_per_day is not None:
        used = gpu_seconds_per_day(connection, job.api_key, now)
        if used + live.cost_s + job.cost_s > limits.gpu_seconds_per_day:
            raise Refused("gpu_seconds_per_day", 600.0)


def _check_rate(connection: Connection, api_key: str, limits: Limits, now: float) -> None:
    per_minute = limits.requests_per_minute
    if per_minute is not None and requests_per_minute(connection, api_key, now) + 1 > per_minute:
        raise Refused("requests_per_minute", 60 - now % 60)


@dataclass(frozen=True, slots=True)
class _Load:
    """A number of jobs and their estimated seconds of computing."""

    count: int
    cost_s: float

    @property
    def one_job_s(self) -> float:
        """The mean cost of one job, at least a second: after that time a place is probably free."""
        return max(self.cost_s / self.count, 1.0)


def _load(connection: Connection, *where: ColumnElement[bool] | TextClause) -> _Load:
    query = select(func.count(), func.coalesce(func.sum(jobs.c.cost_s), 0)).where(*where)
    return _Load(*connection.execute(query).one())


def _clock(connection: Connection, model: str) -> float:
    """A model's virtual clock: the start of the last turn that is running, else of the first that is queued."""
    of = jobs.c.model == model
    running = select(func.max(jobs.c.fair_start)).where(of, jobs.c.status == Status.IN_PROGRESS)
    first = select(jobs.c.fair_start).where(of, jobs.c.status == Status.QUEUED)
    head = first.order_by(*QUEUE_ORDER).limit(1)
    query = select(func.coalesce(running.scalar_subquery(), head.scalar_subquery(), literal(0.0)))
    clock: float = connection.execute(query).scalar_one()
    return clock


def _own_end(connection: Connection, job: Job) -> float | None:
    """The end of the turn of the last live job in this job's flow."""
    flow = (jobs.c.model == job.model, jobs.c.api_key == job.api_key, jobs.c.priority == job.priority, LIVE)
    last = select(jobs.c.fair_start + jobs.c.cost_s).where(*flow).order_by(jobs.c.fair_start.desc()).limit(1)
    end: float | None = connection.execute(last).scalar_one_or_none()
    return end
