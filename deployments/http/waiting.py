"""Holds requests open until a job has ended: for `Prefer: wait`, and POST /v1/videos/sync."""

from __future__ import annotations

import asyncio
import re
import time

from deployments.http.errors import NotFound
from deployments.http.watcher import Watcher
from jobs.record import Job
from jobs.store import JobStore


class Waiting:
    """Waits until jobs end, whichever replica ends them."""

    def __init__(self, store: JobStore, watcher: Watcher) -> None:
        self._store = store
        self._watcher = watcher

    async def until_ended(self, job: Job, at_most_s: float) -> Job:
        """Wait until the job ends, at most `at_most_s` seconds; returns the job as it is then.

        Raises:
            NotFound: the job was deleted meanwhile.
        """
        deadline = time.monotonic() + at_most_s
        while not job.ended:
            try:
                async with asyncio.timeout_at(asyncio.get_running_loop().time() + deadline - time.monotonic()):
                    await self._watcher.changed(job.id, job.version)
            except TimeoutError:
                return job
            now = await asyncio.to_thread(self._store.get, job.id)
            if now is None:
                raise NotFound("the video was deleted meanwhile", param="video_id")
            job = now
        return job


def parse_prefer(header: str | None, at_most_s: float) -> float | None:
    """The seconds of `Prefer: wait=N` (RFC 7240), at most `at_most_s`; None when the header asks for no wait."""
    found = re.search(r"(?:^|[,;\s])wait=\"?(\d{1,9})", header or "")
    return min(float(found[1]), at_most_s) if found else None
