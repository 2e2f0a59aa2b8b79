"""Takes jobs in within one transaction: checks their limits and finds their turns.

What has to be known of a queue or an API key is read once and then counted on, so that many jobs cost little more than
one, and the outcome is that of taking them in one after the other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, TextClause, and_, bindparam, func, insert, select, true

from jobs.changes import tell
from jobs.costs import Line, estimate, read_lines
from jobs.database import serialize
from jobs.lifecycle import Status
from jobs.priority import Priority, fair_start
from jobs.record import Job, columns_of
from jobs.schema import LIVE, QUEUE_ORDER, jobs
from jobs.usage import charge, gpu_seconds_per_day, requests_per_minute
from pipelines.stages import Stage


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


class Refused(Exception):
    """A limit is reached; `limit` names it, and the client may retry after `retry_after_s`."""

    def __init__(self, limit: str, retry_after_s: float) -> None:
        super().__init__(limit)
        self.limit = limit
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (*self.args, self.retry_after_s))


def take_in(connection: Connection, arrivals: Sequence[tuple[Job, Limits]], now: float) -> list[Job | Refused]:
    """Store jobs with their turns and estimated costs, in this order; returns each as it is stored, or why it is not.

    Args:
        now: the database's time in seconds since the epoch.
    """
    models = sorted({job.model for job, _ in arrivals})
    for model in models:  # in a fixed order: other transactions take the same locks
        serialize(connection, f"accept {model}")
    queues = {model: _Queue(connection, model) for model in models}
    callers = {job.api_key: _Caller(connection, job.api_key, now) for job, _ in arrivals}
    outcomes: list[Job | Refused] = []
    for job, limits in arrivals:
        queue, caller = queues[job.model], callers[job.api_key]
        job = dataclasses.replace(job, cost_s=estimate(queue.lines, job.work).computing_s)
        if (refused := _check(job, limits, queue, caller)) is not None:
            outcomes.append(refused)
            continue
        start = fair_start(queue.clock(), queue.own_end(job))
        job = dataclasses.replace(job, fair_start=start, queue_rank=start + job.priority.handicap_s, version=1)
        queue.add(job)
        caller.add(job)
        outcomes.append(job)
    accepted = [outcome for outcome in outcomes if isinstance(outcome, Job)]
    if accepted:
        connection.execute(_INSERT, [columns_of(job) for job in accepted])
        tell(connection, accepted)
    for name, caller in sorted(callers.items()):
        if caller.accepted:
            charge(connection, name, now, requests=caller.accepted)
    return outcomes


def check_rate(connection: Connection, api_key: str, limits: Limits, now: float) -> None:
    """Raise Refused if an API key has made as many requests as it may in a minute."""
    refused = _check_rate(limits, _Caller(connection, api_key, now))
    if refused is not None:
        raise refused


def _check(job: Job, limits: Limits, queue: _Queue, caller: _Caller) -> Refused | None:
    if limits.max_queued is not None or limits.max_backlog_s is not None:
        waiting = queue.waiting()
        if limits.max_queued is not None and waiting.count >= limits.max_queued:
            return Refused("max_queued", waiting.one_job_s)
        if limits.max_backlog_s is not None and waiting.count and waiting.cost_s + job.cost_s > limits.max_backlog_s:
            return Refused("max_backlog_s", waiting.one_job_s)
    if (refused := _check_rate(limits, caller)) is not None:
        return refused
    if limits.live_jobs is None and limits.gpu_seconds_per_day is None:
        return None
    live = caller.live()
    if limits.live_jobs is not None and live.count >= limits.live_jobs:
        return Refused("live_jobs", live.one_job_s)
    most_s = limits.gpu_seconds_per_day
    if most_s is not None and caller.used_s() + live.cost_s + job.cost_s > most_s:
        return Refused("gpu_seconds_per_day", 600.0)
    return None


def _check_rate(limits: Limits, caller: _Caller) -> Refused | None:
    per_minute = limits.requests_per_minute
    if per_minute is not None and caller.requests() + 1 > per_minute:
        return Refused("requests_per_minute", 60 - caller.now % 60)
    return None


@dataclass(frozen=True, slots=True)
class _Load:
    """A number of jobs and their estimated seconds of computing."""

    count: int
    cost_s: float

    def more(self, count: int, cost_s: float) -> _Load:
        return _Load(self.count + count, self.cost_s + cost_s)

    @property
    def one_job_s(self) -> float:
        """The mean cost of one job, at least a second: after that time a place is probably free."""
        return max(self.cost_s / self.count, 1.0)


_MODEL, _API_KEY = jobs.c.model == bindparam("model"), jobs.c.api_key == bindparam("api_key")
_QUEUED = and_(_MODEL, jobs.c.status == Status.QUEUED)


def _turns() -> Select[Any]:
    """The start of the last turn of a model's that is running, and the first that is queued; each may be missing."""
    last = select(func.max(jobs.c.fair_start)).where(_MODEL, jobs.c.status == Status.IN_PROGRESS).scalar_subquery()
    running = select(last.label("running")).subquery()
    first = select(*QUEUE_ORDER, jobs.c.fair_start).where(_QUEUED).order_by(*QUEUE_ORDER).limit(1).subquery()
    return select(running, first).select_from(running.outerjoin(first, true()))


def _load(*where: ColumnElement[bool] | TextClause) -> Select[Any]:
    return select(func.count(), func.coalesce(func.sum(jobs.c.cost_s), 0)).where(*where)


# Built once: to build a statement takes longer than to run it.
_INSERT = insert(jobs)
_TURNS = _turns()
WAITING = _load(_QUEUED)
"""The number of queued jobs of a `model`, and their estimated seconds of computing."""
_LIVE_JOBS = _load(_API_KEY, LIVE)
_OWN_END = (
    select(jobs.c.fair_start + jobs.c.cost_s)
    .where(_MODEL, _API_KEY, jobs.c.priority == bindparam("priority"), LIVE)
    .order_by(jobs.c.fair_start.desc())
    .limit(1)
)
"""The end of the turn of the last live job of one flow."""


class _Queue:
    """A model's queue: what it holds, and its virtual clock."""

    def __init__(self, connection: Connection, model: str) -> None:
        self.lines: dict[Stage, Line] = read_lines(connection, model)
        self._running: float | None
        self._running, *first = connection.execute(_TURNS, {"model": model}).one()
        self._first = None if first[0] is None else tuple(first)
        self._connection, self._model = connection, model
        self._waiting: _Load | None = None
        self._added, self._added_s = 0, 0.0
        self._ends: dict[tuple[str, Priority], float | None] = {}

    def waiting(self) -> _Load:
        """The queued jobs."""
        if self._waiting is None:
            self._waiting = _Load(*self._connection.execute(WAITING, {"model": self._model}).one())
        return self._waiting.more(self._added, self._added_s)

    def clock(self) -> float:
        """The start of the last turn that is running, else of the first that is queued."""
        if self._running is not None:
            return self._running
        return 0.0 if self._first is None else float(self._first[-1])

    def own_end(self, job: Job) -> float | None:
        """The end of the turn of the last live job in this job's flow."""
        flow = job.api_key, job.priority
        if flow not in self._ends:
            parameters = {"model": self._model, "api_key": job.api_key, "priority": job.priority}
            self._ends[flow] = self._connection.execute(_OWN_END, parameters).scalar_one_or_none()
        return self._ends[flow]

    def add(self, job: Job) -> None:
        self._added, self._added_s = self._added + 1, self._added_s + job.cost_s
        self._ends[job.api_key, job.priority] = job.fair_start + job.cost_s
        place = job.fresh, job.queue_rank, job.id, job.fair_start
        if self._first is None or place < self._first:
            self._first = place


class _Caller:
    """An API key: what it has used, and what it has waiting or in progress."""

    def __init__(self, connection: Connection, name: str, now: float) -> None:
        self._connection, self._name, self.now = connection, name, now
        self.accepted = 0
        self._cost_s = 0.0
        self._requests: float | None = None
        self._live: _Load | None = None
        self._used_s: float | None = None

    def requests(self) -> float:
        """Those of the last minute."""
        if self._requests is None:
            self._requests = requests_per_minute(self._connection, self._name, self.now)
        return self._requests + self.accepted

    def live(self) -> _Load:
        """The live jobs."""
        if self._live is None:
            self._live = _Load(*self._connection.execute(_LIVE_JOBS, {"api_key": self._name}).one())
        return self._live.more(self.accepted, self._cost_s)

    def used_s(self) -> float:
        """Seconds of computing of the last day."""
        if self._used_s is None:
            self._used_s = gpu_seconds_per_day(self._connection, self._name, self.now)
        return self._used_s

    def add(self, job: Job) -> None:
        self.accepted, self._cost_s = self.accepted + 1, self._cost_s + job.cost_s
