"""What a conductor does to jobs: it claims a job by lease, and writes only while it holds the lease.

Every write after a claim names the lease's token (a fencing token), so a conductor that was presumed dead cannot
overwrite its successor: such a write changes no row and reports that. Methods block for a disk write; call them from a
thread.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Float, bindparam, select, update

from jobs.changes import (
    NO_LEASE,
    UNDER_LEASE,
    Position,
    carry_out,
    change,
    change_each,
    ended_values,
    hold_each,
    hold_places,
)
from jobs.claims import abandoned, claim_statement
from jobs.clock import NOW, DatabaseClock
from jobs.costs import Estimate, Line, estimate, learn, read_lines
from jobs.database import Database
from jobs.lifecycle import SERVER_ERROR, Status
from jobs.record import Job
from jobs.schema import jobs
from jobs.stored import Checkpoint, Checkpoints, ResultMetadata
from pipelines.stages import Stage

# Built once: to build a statement takes longer than to run it.
_HELD = select(jobs.c.lease_token).where(UNDER_LEASE)
_RENEW = (
    update(jobs)
    .where(jobs.c.id.in_(select(jobs.c.id).where(UNDER_LEASE).with_for_update(skip_locked=True)))
    .values(lease_expires_at=NOW + bindparam("lease_s", type_=Float))
)
_REMAINING_S = select(jobs.c.lease_expires_at - NOW).where(jobs.c.lease_token == bindparam("token"))

RETRY_DELAY_S, LONGEST_RETRY_DELAY_S = 1.0, 60.0
LINES_S = 1.0
"""How long the costs of a model's stages are not read again."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """The results of a job whose video is stored."""

    stage_seconds: dict[str, float]
    result_metadata: ResultMetadata
    partial: frozenset[str] = frozenset()
    """The stages of which earlier attempts did a part, so that the seconds do not belong to their whole work."""

    def whole_seconds(self) -> dict[str, float]:
        """The seconds of the stages that did all of their work in this attempt."""
        return {stage: seconds for stage, seconds in self.stage_seconds.items() if stage not in self.partial}

    def values(self, job: Job, now: float) -> dict[str, Any]:
        """The columns that completion changes. The retention time begins now, when the video is stored."""
        return {
            **ended_values(Status.COMPLETED, at=now),
            "progress": 100,
            "stage_seconds": self.stage_seconds,
            "result_metadata": self.result_metadata,
            "expires_at": None if job.expires_in_s is None else now + job.expires_in_s,
        }


class Leases:
    """Jobs under lease. Any number of conductors may share them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._clock = DatabaseClock(database)
        self._lines: dict[str, tuple[float, dict[Stage, Line]]] = {}

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
        most: int = 1,
    ) -> list[Job]:
        """Claim up to `most` jobs of a model: with `take_over` those whose lease expired, else the first of the queue.

        A queued job is claimed only while fewer than `capacity` jobs of the model have a denoiser or will want one
        before it, or if its denoise finished before it was requeued. `fail_spent` handles jobs without attempts left.
        """
        parameters = {
            "of": model, "owner": owner, "lease_s": lease_s,
            "expired_by": self._clock.passed() if take_over else 0.0, "max_attempts": max_attempts,
            "capacity": capacity, "begins_with": begins_with,
        }  # fmt: skip
        claimed: list[Job] = []
        with self._database.write() as connection:
            while len(claimed) < most:
                found = carry_out(connection, claim_statement(), token=uuid.uuid4().hex, **parameters)
                if not found:
                    break
                claimed += found
        return claimed

    def estimate(self, job: Job) -> Estimate:
        """Estimate the cost of a job's stages from jobs of its model that had finished a moment ago."""
        fresh_until, lines = self._lines.get(job.model, (0.0, {}))
        if time.monotonic() >= fresh_until:
            with self._database.read() as connection:
                lines = read_lines(connection, job.model)
            self._lines[job.model] = time.monotonic() + LINES_S, lines
        return estimate(lines, job.work)

    def renew(self, tokens: Collection[str], lease_s: float) -> set[str]:
        """Extend leases; returns the tokens that are still valid.

        Renewal skips the jobs that another write has locked, without waiting: no conductor can claim them now, and a
        lease outlasts several renewals.
        """
        with self._database.write() as connection:
            connection.execute(_RENEW, {"tokens": list(tokens), "lease_s": lease_s})
            self._clock.read(connection)
            return _held(connection, tokens)

    def held(self, tokens: Collection[str]) -> set[str]:
        """Those of these leases that are still held: their jobs were not deleted, canceled or claimed by another."""
        with self._database.read() as connection:
            return _held(connection, tokens)

    def remaining_s(self, token: str) -> float | None:
        """Seconds until a lease expires unless it is renewed, negative if it has; None when it is no longer held."""
        with self._database.read() as connection:
            remaining_s: float | None = connection.execute(_REMAINING_S, {"token": token}).scalar_one_or_none()
        return remaining_s

    def move(self, positions: Mapping[str, Position], lease_s: float) -> set[str]:
        """Record the positions of jobs, by lease; returns the leases that are still valid.

        This also renews the leases of the jobs that move, because `renew` skips the rows that this write has locked.
        """
        with self._database.write() as connection:
            held, now = hold_places(connection, positions)
            renewed = {"lease_expires_at": now + lease_s}
            moved = {token: job for token, job in held.items() if positions[token].is_of(job)}
            change_each(connection, [(job, positions[token].values(job) | renewed) for token, job in moved.items()])
        return set(held)

    def commit(self, token: str, node: str, checkpoint: Checkpoint, needed: Collection[str]) -> bool:
        """Record the last checkpoint of a denoise, by its node; returns whether the lease is still valid.

        `needed` are the denoises whose latents the rest of the job takes.
        """
        return self._change_checkpoints(token, lambda known: known.with_commit(node, checkpoint, needed))

    def forget_checkpoint(self, token: str, node: str) -> bool:
        """Delete the record of a denoise's checkpoint, which is of no use; returns whether the lease is still valid."""
        return self._change_checkpoints(token, lambda known: known.without(node))

    def _change_checkpoints(self, token: str, changed: Callable[[Checkpoints], Checkpoints]) -> bool:
        mine = jobs.c.lease_token == token
        with self._database.write() as connection:
            # Locked, because two denoises of one job may commit at the same time: the end of one, and the next.
            found = connection.execute(select(jobs.c.checkpoint).where(mine).with_for_update()).one_or_none()
            if found is None:
                return False
            connection.execute(update(jobs).where(mine).values(checkpoint=changed(found.checkpoint or Checkpoints())))
            return True

    def checkpoint(self, token: str, node: str) -> Checkpoint | None:
        """The last committed checkpoint of a denoise, if there is one."""
        with self._database.read() as connection:
            of = select(jobs.c.checkpoint).where(jobs.c.lease_token == token)
            found: Checkpoints | None = connection.execute(of).scalar_one_or_none()
        return None if found is None else found.nodes.get(node)

    def complete(self, rendered: Mapping[str, Rendered]) -> set[str]:
        """Complete jobs, by lease, and update their models' costs from them; returns the leases that were valid."""
        with self._database.write() as connection:
            held, now = hold_each(connection, rendered)
            changes = [(job, rendered[token].values(job, now)) for token, job in held.items()]
            completed = change_each(connection, changes)
            measured = {job.id: rendered[token].whole_seconds() for token, job in held.items()}
            for model in sorted({job.model for job in completed}):
                learn(connection, model, [(job.work, measured[job.id]) for job in completed if job.model == model])
        return set(held)

    def fail(self, token: str, code: str, message: str) -> bool:
        """Fail a job that cannot succeed; returns whether the lease was valid."""
        values = ended_values(Status.FAILED, code, message)
        with self._database.write() as connection:
            return bool(change(connection, jobs.c.lease_token == token, **values))

    def retry(self, token: str, attempt: int, message: str, max_attempts: int) -> Status | None:
        """Queue a job again after a fault, or fail it when no attempts are left. Returns None if the lease was lost.

        The wait doubles with every attempt, with 50 % jitter, so jobs that failed together are not retried together.
        """
        mine = jobs.c.lease_token == token
        with self._database.write() as connection:
            ended = ended_values(Status.FAILED, SERVER_ERROR, message)
            if change(connection, mine, jobs.c.attempts >= max_attempts, **ended):
                return Status.FAILED
            waits: dict[str, Any] = {
                "status": Status.QUEUED,
                "stage": None,
                "not_before": NOW + retry_delay_s(attempt),
                "fresh": False,
            }
            return Status.QUEUED if change(connection, mine, **waits, **NO_LEASE) else None

    def release(self, token: str, for_s: float = 0.0) -> bool:
        """Requeue a job: the attempt does not count, and its committed checkpoint stays.

        With `for_s` the job waits for so many seconds and `fresh` is unchanged, so other jobs do not wait behind it.
        """
        back: dict[str, Any] = {
            "status": Status.QUEUED, "stage": None, "attempts": jobs.c.attempts - 1, "not_before": NOW + for_s,
        }  # fmt: skip
        if not for_s:
            back["fresh"] = False
        with self._database.write() as connection:
            return bool(change(connection, jobs.c.lease_token == token, **back, **NO_LEASE))

    def fail_spent(self, max_attempts: int, message: str) -> list[Job]:
        """Fail the jobs whose conductor died during their last attempt; returns them."""
        ended = ended_values(Status.FAILED, SERVER_ERROR, message)
        expired_by = self._clock.passed()  # before the wait for a connection: without one no lease can be renewed
        with self._database.write() as connection:
            return change(connection, *abandoned(expired_by), jobs.c.attempts >= max_attempts, **ended)


def _held(connection: Connection, tokens: Collection[str]) -> set[str]:
    return set(connection.execute(_HELD, {"tokens": list(tokens)}).scalars())


def retry_delay_s(attempt: int) -> float:
    """Seconds until a job is retried after its attempt number `attempt` (from 1) ended in a fault."""
    return min(RETRY_DELAY_S * 2.0 ** (attempt - 1), LONGEST_RETRY_DELAY_S) * random.uniform(0.5, 1.5)
