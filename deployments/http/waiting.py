"""Holds requests open until a job has ended: for `Prefer: wait`, and POST /v1/videos/sync."""

from __future__ import annotations

import asyncio

from deployments.http.errors import NotFound
from deployments.http.overload import Lane
from deployments.http.watcher import Watcher
from jobs.database import UNREACHABLE
from jobs.record import Job
from jobs.store import JobStore


class Waiting:
    """Waits until jobs end, whichever replica ends them."""

    def __init__(self, store: JobStore, watcher: Watcher, lane: Lane) -> None:
        self._store = store
        self._watcher = watcher
        self._lane = lane

    async def until_ended(self, job: Job, at_most_s: float) -> Job:
        """Wait until the job ends, at most `at_most_s` seconds; returns the job as it is then, as far as is known.

        While the job store cannot be reached, the wait goes on.

        Raises:
            NotFound: the job was deleted meanwhile.
        """
        deadline = asyncio.get_running_loop().time() + at_most_s
        while not job.ended:
            try:
                async with asyncio.timeout_at(deadline):
                    await self._watcher.changed(job.id, job.version)
                    now = await self._lane.finish(self._store.get, job.id)
            except TimeoutError:
                return job
            except UNREACHABLE:
                continue  # the watcher looks a moment later
            if now is None:
                raise NotFound("the video was deleted meanwhile", param="video_id")
            job = now
        return job
