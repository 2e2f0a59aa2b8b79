"""The allocation of denoisers to jobs, and preemption: the store keeps one order for all conductors.

An encoded job waits for a denoiser under its lease: its stage is `denoise` and its replica is empty. Waiting jobs get
denoisers in order of their turn (`jobs.priority`), whichever conductor holds them. A requeued job keeps its old turn,
so the job for which it gave up its denoiser goes first.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import ColumnElement, Connection, and_, bindparam, select

from jobs.clock import NOW
from jobs.costs import LEFT_S
from jobs.database import Database, serialize, update_each
from jobs.lifecycle import Status
from jobs.priority import Priority
from jobs.schema import jobs
from pipelines.stages import Stage

HAS_DENOISER: ColumnElement[bool] = and_(jobs.c.stage == Stage.DENOISE, jobs.c.replica.is_not(None))
_CLASS = {priority: place for place, priority in enumerate(Priority)}

UNBELIEVABLE, SOON_S = 3, 1.0
"""A job with less than `after_s` left is not preempted, by its estimate. Once the waiting job is older than
`UNBELIEVABLE` times `after_s`, the estimate is doubted, and only a job with less than `SOON_S` left is spared."""


def hold_denoisers(connection: Connection, model: str) -> None:
    """Lock the allocation of the model's denoisers until this transaction ends; only PostgreSQL needs the lock."""
    serialize(connection, f"denoisers of {model}")


class Allocation:
    """The denoisers of each model, shared by any number of conductors. Methods block for the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def assign(self, model: str, denoisers: Sequence[str], tokens: Collection[str]) -> dict[str, str]:
        """Assign free denoisers to jobs in order of turn; returns those of the caller's jobs, by lease token.

        Another conductor learns its own jobs' denoisers when it asks. So does a conductor that lost its answer.

        Args:
            denoisers: ids of the model's replicas that take calls, in the order of assignment.
            tokens: leases of the caller's jobs that wait for a denoiser.
        """
        with self._database.read() as connection:
            assignments, answer = assign_free_denoisers(_encoded(connection, model), denoisers, tokens)
            if not assignments:  # so it is most of the time, and nothing has to be locked
                return answer
        with self._database.write() as connection:
            hold_denoisers(connection, model)
            assignments, answer = assign_free_denoisers(_encoded(connection, model), denoisers, tokens)
            rows = [asdict(each) for each in sorted(assignments, key=lambda each: each.id)]
            update_each(connection, jobs, rows, keys=("id", "lease_token"))
        return answer

    def preempted(self, model: str, denoisers: int, after_s: float) -> set[str]:
        """Leases of the jobs to preempt for jobs of a higher class that are at least `after_s` old.

        `choose_victims` has the rules. Every conductor gets the same answer until the denoisers have been reassigned.
        """
        here = (jobs.c.model == model, jobs.c.status == Status.IN_PROGRESS)
        columns = jobs.c.id, jobs.c.lease_token, jobs.c.priority, jobs.c.queue_rank, LEFT_S.label("left_s")
        waiting = (
            select(jobs.c.priority, jobs.c.queue_rank, (NOW - jobs.c.created_at).label("waited_s"))
            .where(*here, jobs.c.stage == Stage.DENOISE, jobs.c.replica.is_(None), jobs.c.lease_expires_at >= NOW)
            .where(jobs.c.created_at <= NOW - after_s, jobs.c.priority != Priority.LOW)
            .order_by(jobs.c.queue_rank, jobs.c.id)
        )
        with self._database.read() as connection:
            denoising = [
                DenoisingJob(row.id, row.lease_token, Priority(row.priority), row.queue_rank, row.left_s)
                for row in connection.execute(select(*columns).where(*here, HAS_DENOISER))
            ]
            if denoisers < 1 or not denoising:
                return set()
            urgent = [
                UrgentJob(Priority(row.priority), row.queue_rank, row.waited_s)
                for row in connection.execute(waiting.limit(denoisers))
            ]
        return choose_victims(denoising, urgent, denoisers, after_s)


@dataclass(frozen=True, slots=True)
class EncodedJob:
    """A job in stage `denoise`: it waits for a denoiser, or has one."""

    id: str
    lease_token: str
    replica: str | None
    leased: bool  # whether its lease has not expired


_ENCODED = (  # built once: to build a statement takes longer than to run it
    select(jobs.c.id, jobs.c.lease_token, jobs.c.replica, jobs.c.lease_expires_at >= NOW)
    .where(jobs.c.model == bindparam("model"), jobs.c.status == Status.IN_PROGRESS, jobs.c.stage == Stage.DENOISE)
    .order_by(jobs.c.queue_rank, jobs.c.id)
)


def _encoded(connection: Connection, model: str) -> list[EncodedJob]:
    return [EncodedJob(*row) for row in connection.execute(_ENCODED, {"model": model})]


@dataclass(frozen=True, slots=True)
class Assignment:
    """A denoiser that a job gets."""

    id: str  # of the job
    lease_token: str
    replica: str


def assign_free_denoisers(
    encoded: Sequence[EncodedJob], denoisers: Sequence[str], tokens: Collection[str]
) -> tuple[list[Assignment], dict[str, str]]:
    """Assign free denoisers to waiting jobs, and answer the caller; it gets what it has even if an answer was lost.

    Args:
        encoded: all jobs of the model in stage `denoise`, in order of turn.
        denoisers: ids of the model's replicas that take calls, in the order of assignment.
        tokens: leases of the caller's jobs that wait for a denoiser. Another conductor's job whose lease has expired
            gets nothing.

    Returns:
        The new assignments, and the denoisers of the caller's jobs by lease token.
    """
    # A job still waits if its replica disappeared before its conductor learned of the assignment.
    mine = {
        job.lease_token: job.replica
        for job in encoded
        if job.lease_token in tokens and job.replica is not None and job.replica in denoisers
    }
    waiting = [
        job
        for job in encoded
        if (job.lease_token in tokens and job.lease_token not in mine) or (job.replica is None and job.leased)
    ]
    busy = {job.replica for job in encoded}
    free = [replica for replica in denoisers if replica not in busy]
    assignments = [Assignment(job.id, job.lease_token, replica) for job, replica in zip(waiting, free, strict=False)]
    return assignments, mine | {each.lease_token: each.replica for each in assignments if each.lease_token in tokens}


@dataclass(frozen=True, slots=True)
class DenoisingJob:
    """A job that has a denoiser, which another may need more."""

    id: str
    lease_token: str
    priority: Priority
    turn: float
    left_s: float  # estimated seconds of computing that it still needs


@dataclass(frozen=True, slots=True)
class UrgentJob:
    """A job that waits for a denoiser and is old enough to preempt another."""

    priority: Priority
    turn: float
    waited_s: float  # since it was accepted


def choose_victims(
    denoising: Sequence[DenoisingJob], urgent: Sequence[UrgentJob], denoisers: int, after_s: float
) -> set[str]:
    """Choose the jobs to preempt; returns their leases.

    Each urgent job that will not get a free denoiser preempts one job: of the lowest class, the job with the last turn.
    A job with an earlier turn than the urgent job is not preempted, because its class has aged. A job about to finish
    is not preempted either: one with less than `after_s` left by its estimate, or less than a second where the urgent
    job is so old that the estimate may be wrong.

    Args:
        urgent: in order of turn.
        denoisers: the number of the model's denoisers; at most that many can be reassigned.
    """
    last_first = sorted(denoising, key=lambda job: (_CLASS[job.priority], job.turn, job.id), reverse=True)
    doubted_s = UNBELIEVABLE * after_s
    victims: set[str] = set()
    for waiting in urgent[max(denoisers - len(denoising), 0) : denoisers]:
        for job in last_first:
            lower = _CLASS[job.priority] > _CLASS[waiting.priority]
            worth_it = job.left_s >= (SOON_S if waiting.waited_s >= doubted_s else after_s)
            if lower and worth_it and job.turn > waiting.turn and job.lease_token not in victims:
                victims.add(job.lease_token)
                break
    return victims
