"""Leg 4: the finished mp4 into the artifact store."""

from __future__ import annotations

import asyncio

from ray import serve

from deployments.settings import data_dir
from storage.store import job_prefix, local_store, video_key


@serve.deployment(name="Publisher", max_ongoing_requests=16, graceful_shutdown_timeout_s=60)
class Publisher:
    """Writes videos under keys that depend on the job alone, so that a repeat replaces its own work."""

    def __init__(self) -> None:
        self.store = local_store(data_dir())

    async def publish(self, job_id: str, mp4: bytes) -> str:
        """Store a video; returns its key."""
        key = video_key(job_id)
        await asyncio.to_thread(self.store.put, key, mp4)
        return key

    async def discard(self, job_id: str) -> None:
        """Remove everything of a job that was deleted or canceled while it was being published."""
        await asyncio.to_thread(self.store.delete_prefix, job_prefix(job_id))
