"""A job's lease, as the job run uses it: it writes positions to the store, which answers whether the lease is valid."""

from __future__ import annotations

import asyncio

from deployments.background import until_written
from deployments.orchestration.write_batcher import WriteBatcher
from jobs.changes import Position
from jobs.database import UNREACHABLE
from jobs.leases import Leases
from jobs.lifecycle import progress_at
from jobs.record import Checkpoint, Job
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
        self._seconds: dict[Stage, float] | None = None

    async def advance(self, stage: Stage) -> None:
        """Record that a stage begins. Waits for the write, because the store assigns denoisers by it.

        Raises:
            LeaseLost
        """
        if self._seconds is None:
            await until_written(self._estimate)
        if not await self._positions.written(self.token, Position(stage, self._percent(stage, 0.0), begins=True)):
            raise LeaseLost

    async def report(self, stage: Stage, replica: str, done: float = 0.0, step: int | None = None) -> None:
        """Record soon that `done` (0 to 1) of a stage is finished. This is a hint; callers do not wait for it."""
        try:
            if self._seconds is None:
                await asyncio.to_thread(self._estimate)
        except UNREACHABLE:
            return
        self._positions.put(self.token, Position(stage, self._percent(stage, done), step, replica))

    async def checkpoint(self) -> Checkpoint | None:
        """The denoiser's last checkpoint. Waits for the store, which the next denoiser has to do anyway."""
        return await until_written(self._leases.checkpoint, self.token)

    def _estimate(self) -> None:
        """Ask the store how many seconds each stage will take. Blocks."""
        self._seconds = self._leases.estimate(self._job).seconds

    def _percent(self, stage: Stage, done: float) -> int:
        assert self._seconds is not None
        return progress_at(stage, done, self._seconds)

    async def forget_checkpoint(self) -> None:
        """Delete the record of the checkpoint, because its file cannot be read."""
        await until_written(self._leases.commit, self.token, None)
