"""A job's lease, as the job run uses it: it writes positions to the store, which answers whether the lease is valid."""

from __future__ import annotations

from collections.abc import Mapping

from deployments.background import until_written
from deployments.orchestration.write_batcher import WriteBatcher
from jobs.changes import Position
from jobs.leases import Leases
from jobs.record import Job
from jobs.stored import Checkpoint
from pipelines.stages import Stage


class LeaseLost(Exception):
    """The job was deleted or canceled, or another conductor has it."""


class Lease:
    """The lease of the conductor that claimed the job; every write carries its token."""

    def __init__(self, leases: Leases, positions: WriteBatcher[Position], job: Job) -> None:
        assert job.lease_token is not None
        self.token = job.lease_token
        self._leases = leases
        self._positions = positions
        self._job = job
        self._last: Stage | None = None

    async def estimate(self) -> Mapping[Stage, float]:
        """The seconds that each stage of the job will take."""
        return (await until_written(self._leases.estimate, self._job)).seconds

    async def advance(self, stage: Stage, percent: int) -> None:
        """Record that a stage begins. Waits for the write, because the store assigns denoisers by it.

        Raises:
            LeaseLost
        """
        if not await self._positions.written(self.token, Position(stage, percent, begins=True)):
            raise LeaseLost

    def begin(self, stage: Stage, percent: int) -> None:
        """Record soon that the last stage begins, which nothing waits for."""
        self._last = stage
        self._positions.put(self.token, Position(stage, percent, begins=True))

    def report(self, stage: Stage, percent: int, replica: str, step: int | None = None) -> None:
        """Record soon how far the job is. This is a hint."""
        # It may replace the beginning of the last stage before that is written.
        self._positions.put(self.token, Position(stage, percent, step, replica, begins=stage is self._last))

    async def checkpoint(self, node: str) -> Checkpoint | None:
        """The last checkpoint of a node. Waits for the store, which the next denoiser has to do anyway."""
        return await until_written(self._leases.checkpoint, self.token, node)

    async def forget_checkpoint(self, node: str) -> None:
        """Delete the record of a node's checkpoint, which is of no use."""
        await until_written(self._leases.forget_checkpoint, self.token, node)
