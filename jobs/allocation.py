"""The allocation of denoisers to jobs, and preemption: the store keeps one order for all conductors.

An encoded job waits for a denoiser under its lease: its stage is `denoise` and its replica is empty. Waiting jobs get
denoisers in order of their turn (`jobs.priority`), whichever conductor holds them. A requeued job keeps its old turn,
so the job for which it gave up its denoiser goes first.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, select

from jobs.costs import LEFT_S
from jobs.database import Database, serialize, update_each
from jobs.lifecycle import Status
from jobs.priority import Priority
from jobs.schema import jobs
from pipelines.stages import Stage

HAS_DENOISER: ColumnElement[bool] = and_(jobs.c.stage == Stage.DENOISE, jobs.c.replica.is_not(None))
_TURN = jobs.c.queue_rank.label("turn")
_CLASS = {priority.value: place for place, priority in enumerate(Priority)}

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
        query = (
            select(jobs.c.id, jobs.c.lease_token, jobs.c.replica, jobs.c.lease_expires_at)
            .where(jobs.c.model == model, jobs.c.status == Status.IN_PROGRESS, jobs.c.stage == Stage.DENOISE)
            .order_by(jobs.c.queue_rank, jobs.c.id)
        )
        with self._database.write() as connection:
            hold_denoisers(connection, model)
            rows = connection.execute(query).all()
            # A job still waits if its replica disappeared before its conductor learned of the assignment.
            mine = {
                row.lease_token: row.replica for row in rows if row.lease_token in tokens and row.replica in denoisers
            }
            waiting = [
                row
                for row in rows
                if (row.lease_token in tokens and row.lease_token not in mine)
                or (row.replica is None and row.lease_expires_at >= time.time())
            ]
            busy = {row.replica for row in rows}
            free = [each for each in denoisers if each not in busy]
            given = [
                {"id": row.id, "lease_token": row.lease_token, "replica": replica}
                for row, replica in sorted(zip(waiting, free, strict=False), key=lambda pair: pair[0].id)
            ]
            update_each(connection, jobs, given, keys=("id", "lease_token"))
        return mine | {each["lease_token"]: each["replica"] for each in given if each["lease_token"] in tokens}

    def preempted(self, model: str, denoisers: int, after_s: float) -> set[str]:
        """Leases of the jobs to preempt for jobs of a higher class that are at least `after_s` old.

        Each encoded job that waits and will not get a free denoiser preempts one job: of the lowest class, the job with
        the last turn. A job with an earlier turn than the waiting job is not preempted, because its class has aged. A
        job about to finish is not preempted either: one with less than `after_s` left by its estimate, or less than a
        second where the waiting job is so old that the estimate may be wrong. Every conductor gets the same answer
        until the denoisers have been reassigned.
        """
        here = (jobs.c.model == model, jobs.c.status == Status.IN_PROGRESS)
        left_s = LEFT_S.label("left_s")
        at_work = select(jobs.c.id, jobs.c.lease_token, jobs.c.priority, _TURN, left_s).where(*here, HAS_DENOISER)
        now = time.time()
        waiting = (
            select(jobs.c.priority, jobs.c.created_at, _TURN)
            .where(*here, jobs.c.stage == Stage.DENOISE, jobs.c.replica.is_(None), jobs.c.lease_expires_at >= now)
            .where(jobs.c.created_at <= now - after_s, jobs.c.priority != Priority.LOW)
            .order_by(jobs.c.queue_rank, jobs.c.id)
        )
        with self._database.read() as connection:
            working = connection.execute(at_work).all()
            if denoisers < 1 or not working:
                return set()
            # At most every denoiser can be reassigned.
            asking = connection.execute(waiting.limit(denoisers)).all()
        doubted = now - UNBELIEVABLE * after_s
        return _victims(working, asking[max(denoisers - len(working), 0) :], after_s, doubted)


def _victims(working: Sequence[Any], asking: Sequence[Any], after_s: float, doubted: float) -> set[str]:
    last_first = sorted(working, key=lambda row: (_CLASS[row.priority], row.turn, row.id), reverse=True)
    victims: set[str] = set()
    for each in asking:
        for row in last_first:
            lower = _CLASS[row.priority] > _CLASS[each.priority]
            worth_it = row.left_s >= (SOON_S if each.created_at <= doubted else after_s)
            if lower and worth_it and row.turn > each.turn and row.lease_token not in victims:
                victims.add(row.lease_token)
                break
    return victims
