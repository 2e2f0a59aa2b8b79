"""A job's lease as its relay uses it: where the job is goes into the store, and whether it is still ours comes back."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from jobs.database import UNREACHABLE
from jobs.leases import Leases
from jobs.lifecycle import Leg, progress_at
from jobs.record import Job

log = logging.getLogger("ray.serve")


class LeaseLost(Exception):
    """The job was deleted or canceled, or another conductor has it."""


class Lease:
    """Held by the conductor that claimed the job; every write is in its name."""

    def __init__(self, leases: Leases, job: Job) -> None:
        assert job.lease_token is not None
        self.token = job.lease_token
        self._leases = leases
        self._job = job
        self._seconds: dict[Leg, float] | None = None

    async def advance(
        self, leg: Leg, done: float = 0.0, *, step: int | None = None, replica: str | None = None
    ) -> None:
        """Record that `done` (0 to 1) of a leg is finished.

        Raises:
            LeaseLost
        """
        try:
            if self._seconds is None:
                self._seconds = (await asyncio.to_thread(self._leases.estimate, self._job)).seconds
            percent = progress_at(leg, done, self._seconds)
            kept = await asyncio.to_thread(self._leases.advance, self.token, leg, percent, step=step, replica=replica)
        except UNREACHABLE as error:
            # Progress is only advice; whether the lease is lost, renewing it will tell.
            log.warning("the progress of %s could not be stored: %s", self._job.id, type(error).__name__)
            return
        if not kept:
            raise LeaseLost

    async def checkpoint(self) -> dict[str, Any] | None:
        """What the denoiser committed last; while the store cannot be reached, what is known from the claim."""
        try:
            return await asyncio.to_thread(self._leases.checkpoint, self.token)
        except UNREACHABLE:
            return self._job.checkpoint

    async def forget_checkpoint(self) -> None:
        """What was committed cannot be read."""
        await asyncio.to_thread(self._leases.commit, self.token, None)
