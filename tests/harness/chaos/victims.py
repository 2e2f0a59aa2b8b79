"""Who holds a job, by the job's row in the database; and how a process is caught in the act."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy import ColumnElement, func, or_, select

from jobs.allocation import HAS_DENOISER
from jobs.database import Database
from jobs.lifecycle import Status
from jobs.schema import LIVE, jobs
from jobs.stored import Checkpoints
from pipelines.stages import Stage
from tests.harness.chaos.world import CHECKPOINT_EVERY_S, Replica
from tests.harness.processes import stopped

T = TypeVar("T")

HUNT_S = 240.0
SETTLE_S = 1.0
"""What a process had sent before it was stopped is in the database by then."""


@dataclass(frozen=True, slots=True)
class Held:
    """A job in progress, as its row stood."""

    job_id: str
    stage: Stage
    replica: str | None
    owner: str
    attempts: int
    step: int | None
    num_steps: int
    checkpoint_step: int

    def __str__(self) -> str:
        at = f", step {self.step} of {self.num_steps}" if self.step is not None else ""
        return f"{self.stage}{at}"


def in_flight(database: Database) -> int:
    """How many accepted jobs have not ended."""
    with database.read() as connection:
        return int(connection.execute(select(func.count()).select_from(jobs).where(LIVE)).scalar_one())


def held(database: Database, *conditions: ColumnElement[bool]) -> list[Held]:
    """The jobs in progress for which some conditions hold; without any, all of them.

    Not those that wait for a denoiser: when they go on is up to the jobs before them.
    """
    at_work = or_(jobs.c.stage != Stage.DENOISE, HAS_DENOISER)
    leased = (jobs.c.status == Status.IN_PROGRESS, jobs.c.lease_token.is_not(None))
    query = select(jobs).where(*leased, at_work, *conditions)
    with database.read() as connection:
        rows = connection.execute(query.order_by(jobs.c.id)).all()
    return [
        Held(
            row.id, Stage(row.stage), row.replica, row.lease_owner, row.attempts, row.step,
            row.parameters["num_inference_steps"], _committed(row.checkpoint),
        )
        for row in rows
    ]  # fmt: skip


def _committed(checkpoint: Checkpoints | None) -> int:
    """The steps of its only denoise that a job has committed."""
    return max((each.step for each in checkpoint.nodes.values()), default=0) if checkpoint else 0


def held_by(database: Database, replica: Replica) -> list[Held]:
    """The jobs that a replica of a stage works on, or that a conductor has leased."""
    column = jobs.c.lease_owner if replica.deployment == "Conductor" else jobs.c.replica
    return held(database, column == replica.replica_id)


def ids(*replicas: Replica) -> frozenset[str]:
    """The ids of some replicas."""
    return frozenset(each.replica_id for each in replicas)


def mid_step(database: Database, replicas: Sequence[Replica], at_most: float = 0.6) -> tuple[Replica, Held] | None:
    """A denoiser in the middle of a long job, of which no more than `at_most` (0 to 1) is done, and the job."""
    for replica in replicas:
        for each in held_by(database, replica):
            if (
                each.stage is Stage.DENOISE
                and each.step
                and each.num_steps >= 60
                and 0.1 < each.step / each.num_steps < at_most
            ):
                return replica, each
    return None


def hunt(look: Callable[[], T | None], between: Callable[[], object], what: str, every_s: float = 0.02) -> T:
    """Look until something is found; `between` keeps the work coming.

    Raises:
        TimeoutError: naming what was not found.
    """
    deadline = time.monotonic() + HUNT_S
    while (found := look()) is None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"not found within {HUNT_S:.0f} s: {what}")
        between()
        time.sleep(every_s)
    return found


def still_held(database: Database, before: Sequence[Held]) -> list[Held]:
    """Of some jobs of a stopped replica those that it really holds: their rows still say so a moment later."""
    time.sleep(SETTLE_S)
    now = {(each.job_id, each.attempts, each.stage) for each in held(database)}
    return [each for each in before if (each.job_id, each.attempts, each.stage) in now]


def kill_in_the_act(
    database: Database, its_own: ColumnElement[bool], replica: Replica, kill: Callable[[int], None]
) -> list[Held] | None:
    """Kill a replica of a quick stage while it holds a job, for which it is stopped first; None when it holds none."""
    found = held(database, its_own)
    if not found:
        return None
    with stopped(replica.process):
        if caught := still_held(database, found):
            kill(replica.process)
            return caught
    return None


def somewhen(dice: random.Random) -> None:
    """Let a moment pass that has nothing to do with when checkpoints are written."""
    time.sleep(dice.uniform(0.0, CHECKPOINT_EVERY_S))
