"""A job's lease as its relay uses it: where the job is goes into the store, and whether it is still ours comes back."""

from __future__ import annotations

import asyncio
from typing import Any

from deployments.background import until_written
from deployments.orchestration.write_batcher import Together
from jobs.changes import Position
from jobs.database import UNREACHABLE
from jobs.leases import Leases
from jobs.lifecycle import Leg, progress_at
from jobs.record import Job


class LeaseLost(Exception):
    """The job was deleted or canceled, or another conductor has it."""


class Lease:
    """Held by the conductor that claimed the job; every write is in its name."""

    def __init__(self, leases: Leases, positions: Together[Position], job: Job) -> None:
        assert job.lease_token is not None
        self.token = job.lease_token
        self._leases = leases
        self._positions = positions
        self._job = job
        self._seconds: dict[Leg, float] | None = None

    async def advance(self, leg: Leg) -> None:
        """Record that a leg begins; waits for the store, by which denoisers are given.

        Raises:
            LeaseLost
        """
        if self._seconds is None:
            await until_written(self._estimate)
        if not await self._positions.written(self.token, Position(leg, self._percent(leg, 0.0), begins=True)):
            raise LeaseLost

    async def report(self, leg: Leg, replica: str, done: float = 0.0, step: int | None = None) -> None:
        """Let it be recorded soon that `done` (0 to 1) of a leg is finished. It is advice: nobody waits for it."""
        try:
            if self._seconds is None:
                await asyncio.to_thread(self._estimate)
        except UNREACHABLE:
            return
        self._positions.put(self.token, Position(leg, self._percent(leg, done), step, replica))

    async def checkpoint(self) -> dict[str, Any] | None:
        """What the denoiser committed last. Waits for the store, as whoever goes on from there has to anyway."""
        return await until_written(self._leases.checkpoint, self.token)

    def _estimate(self) -> None:
        """Ask the store what each leg will take. Blocks."""
        self._seconds = self._leases.estimate(self._job).seconds

    def _percent(self, leg: Leg, done: float) -> int:
        assert self._seconds is not None
        return progress_at(leg, done, self._seconds)

    async def forget_checkpoint(self) -> None:
        """What was committed cannot be read."""
        await until_written(self._leases.commit, self.token, None)
