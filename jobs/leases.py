"""What a conductor does to jobs: claim one by lease, and write only while the lease is its own.

Every write after a claim names the lease's token, so a conductor that was presumed dead cannot overwrite its successor;
such a write changes no row, and says so. Methods block for a disk write; call them from a thread.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import select, update

from jobs.changes import (
    BEFORE_OTHERS,
    NO_LEASE,
    Position,
    carry_out,
    change,
    change_each,
    ended_values,
    hold_each,
)
from jobs.claims import abandoned, claim_statement
from jobs.costs import Estimate, estimate, learn, read_lines
from jobs.database import Database
from jobs.lifecycle import SERVER_ERROR, Status
from jobs.record import Checkpoint, Job
from jobs.schema import jobs
from pipelines.stages import Stage

RETRY_DELAY_S, LONGEST_RETRY_DELAY_S = 1.0, 60.0


@dataclass(frozen=True, slots=True)
class Rendered:
    """What is known of a job once its video is stored."""

    stage_seconds: dict[str, float]
    result_metadata: dict[str, Any]

    def values(self, job: Job) -> dict[str, Any]:
        """What its completion changes. The time for which it is kept begins when there is something to keep."""
        values = {
            **ended_values(Status.COMPLETED),
            "progress": 100,
            "stage_seconds": self.stage_seconds,
            "result_metadata": self.result_metadata,
        }
        expires_at = None if job.expires_in_s is None else values["completed_at"] + job.expires_in_s
        return {**values, "expires_at": expires_at}


class Leases:
    """Jobs under lease, shared by any number of conductors."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim(
        self,
        model: str,
        *,
        owner: str,
        lease_s: float,
        max_attempts: int,
        capacity: int,
        begins_with: Stage = Stage.TEXT_ENCODE,
        take_over: bool = True,
    ) -> Job | None:
        """Take a job of a model: the one whose lease expired first, to `take_over`, else the first of the queue.

        One from the queue only while fewer than `capacity` jobs of the model have a denoiser or will want one before
        it, or if it was denoised before it was given back. One whose attempts are spent is left for `fail_spent`.
        """
        parameters = {
            "of": model, "owner": owner, "token": uuid.uuid4().hex, "now": (now := time.time()), "lease_s": lease_s,
            "expired_by": now if take_over else 0.0, "max_attempts": max_attempts, "capacity": capacity,
            "begins_with": begins_with,
        }  # fmt: skip
        with self._database.write() as connection:
            claimed = carry_out(connection, claim_statement(), **parameters)
        return claimed[0] if claimed else None

    def estimate(self, job: Job) -> Estimate:
        """What a job's stages will cost, as far as finished jobs of its model tell."""
        with self._database.read() as connection:
            return estimate(read_lines(connection, job.model), job.work)

    def renew(self, tokens: Collection[str], lease_s: float) -> set[str]:
        """Extend leases; returns the tokens that are still valid.

        Jobs that a write has in hand are passed over, not waited for: nobody can claim them now, and a lease outlasts
        several renewals.
        """
        mine = jobs.c.lease_token.in_(tokens)
        free = select(jobs.c.id).where(mine).with_for_update(skip_locked=True)
        with self._database.write() as connection:
            connection.execute(update(jobs).where(jobs.c.id.in_(free)).values(lease_expires_at=time.time() + lease_s))
            return set(connection.execute(select(jobs.c.lease_token).where(mine)).scalars())

    def expiry(self, token: str) -> float | None:
        """When a lease runs out unless it is renewed; None when nobody has it any more."""
        query = select(jobs.c.lease_expires_at).where(jobs.c.lease_token == token)
        with self._database.read() as connection:
            expires_at: float | None = connection.execute(query).scalar_one_or_none()
        return expires_at

    def move(self, positions: Mapping[str, Position], lease_s: float) -> set[str]:
        """Record where jobs are, by lease; returns the leases that are still valid.

        Those that move are renewed too: what a conductor has in hand here, its `renew` passes over.
        """
        with self._database.write() as connection:
            held = hold_each(connection, positions)
            renewed = {"lease_expires_at": time.time() + lease_s}
            moved = {token: job for token, job in held.items() if positions[token].is_of(job)}
            change_each(connection, [(job, positions[token].values(job) | renewed) for token, job in moved.items()])
        return set(held)

    def commit(self, token: str, checkpoint: Checkpoint | None) -> bool:
        """Record the denoiser's last checkpoint; None forgets a lost one."""
        committed = update(jobs).where(jobs.c.lease_token == token).values(checkpoint=checkpoint and asdict(checkpoint))
        with self._database.write() as connection:
            return connection.execute(committed).rowcount == 1

    def checkpoint(self, token: str) -> Checkpoint | None:
        """The checkpoint that was committed last."""
        query = select(jobs.c.checkpoint).where(jobs.c.lease_token == token)
        with self._database.read() as connection:
            checkpoint = connection.execute(query).scalar_one_or_none()
        return Checkpoint(**checkpoint) if checkpoint else None

    def complete(self, rendered: Mapping[str, Rendered]) -> set[str]:
        """End jobs well, by lease, and learn from them what their models cost; returns the leases that were valid."""
        with self._database.write() as connection:
            held = hold_each(connection, rendered)
            changes = [(job, rendered[token].values(job)) for token, job in held.items()]
            completed = change_each(connection, changes)
            for model in sorted({job.model for job in completed}):
                learn(connection, model, [(job.work, job.stage_seconds) for job in completed if job.model == model])
        return set(held)

    def fail(self, token: str, code: str, message: str) -> bool:
        """End a job that cannot succeed."""
        values = ended_values(Status.FAILED, code, message)
        with self._database.write() as connection:
            return bool(change(connection, jobs.c.lease_token == token, **values))

    def retry(self, token: str, attempt: int, message: str, max_attempts: int) -> Status | None:
        """Queue a job again after a fault, or fail it when its attempts are spent. None when the lease was lost.

        The wait doubles with every attempt, give or take half of it: what failed together is not retried together.
        """
        mine = jobs.c.lease_token == token
        with self._database.write() as connection:
            ended = ended_values(Status.FAILED, SERVER_ERROR, message)
            if change(connection, mine, jobs.c.attempts >= max_attempts, **ended):
                return Status.FAILED
            waits: dict[str, Any] = {
                "status": Status.QUEUED,
                "stage": None,
                "not_before": time.time() + retry_delay_s(attempt),
                "queue_rank": BEFORE_OTHERS,
            }
            return Status.QUEUED if change(connection, mine, **waits, **NO_LEASE) else None

    def release(self, token: str, for_s: float = 0.0) -> bool:
        """Give a job back untried: the attempt does not count, and what was committed stays.

        One that has to wait for something keeps its turn; others do not wait behind it.
        """
        back: dict[str, Any] = {
            "status": Status.QUEUED, "stage": None, "attempts": jobs.c.attempts - 1, "not_before": time.time() + for_s,
        }  # fmt: skip
        if not for_s:
            back["queue_rank"] = BEFORE_OTHERS
        with self._database.write() as connection:
            return bool(change(connection, jobs.c.lease_token == token, **back, **NO_LEASE))

    def fail_spent(self, max_attempts: int, message: str) -> list[Job]:
        """Fail the jobs whose last attempt ended with its conductor, without a word; returns them."""
        ended = ended_values(Status.FAILED, SERVER_ERROR, message)
        now = time.time()  # before the wait for a connection: nobody can renew a lease while there is none
        with self._database.write() as connection:
            return change(connection, *abandoned(now), jobs.c.attempts >= max_attempts, **ended)


def retry_delay_s(attempt: int) -> float:
    """Seconds until a job is tried again after its attempt number `attempt` (from 1) ended in a fault."""
    return min(RETRY_DELAY_S * 2.0 ** (attempt - 1), LONGEST_RETRY_DELAY_S) * random.uniform(0.5, 1.5)
