"""Ends jobs on behalf of a client: cancels and deletes them, and cancels those whose client has left."""

from __future__ import annotations

import asyncio
import logging

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_fixed

from deployments import metrics
from deployments.events import emit
from deployments.http.errors import NotFound, Overloaded
from deployments.http.overload import Lane
from deployments.http.unbroken import Unbroken
from jobs.database import UNREACHABLE
from jobs.lifecycle import CANCELED, Status
from jobs.record import Job
from jobs.store import JobStore
from storage.artifacts import ArtifactStore
from storage.store import delete_job

log = logging.getLogger("ray.serve")

AT_ONCE = 2
"""The number of jobs whose files may be deleted at once."""
FILES_S = 5.0
"""How long the answer to a DELETE waits for the files to go."""
ABANDON_S = 60.0
"""How long an abandoned job is tried to be canceled while the job store is away."""


class Ending:
    """Ends the jobs of one API replica's clients."""

    def __init__(self, jobs: JobStore, artifacts: ArtifactStore, changes: Lane, unbroken: Unbroken, most: int) -> None:
        """
        Args:
            changes: for what waits for the job store.
            most: how many may wait for the artifact store.
        """
        self._jobs, self._artifacts = jobs, artifacts
        self._changes = changes
        self._unbroken = unbroken
        self._deletes = Lane("deletes", AT_ONCE, most)

    async def cancel(self, before: Job) -> Job:
        """Cancel a job unless it has ended; returns it as it is then.

        Raises:
            NotFound: it was deleted meanwhile.
        """
        job = await self._changes.finish(self._jobs.cancel, before.id)
        if job is None:
            raise no_such_video()
        if not before.ended and job.error_code == CANCELED:
            emit("job.canceled", job_id=job.id, model=job.model)
        if before.status is Status.QUEUED and job.attempts == before.attempts:
            # No conductor held the job, so none will delete its files. It has ended, however long that takes.
            metrics.jobs_total().inc(1, {"model": job.model, "outcome": "canceled"})
            if job.has_image or job.attempts:
                self._delete_files(job)
        return job

    async def abandon(self, job: Job) -> None:
        """Cancel the job of a client that has left, also if the job store is away for a while."""
        try:
            await AsyncRetrying(
                retry=retry_if_exception_type(UNREACHABLE), stop=stop_after_delay(ABANDON_S), wait=wait_fixed(1.0),
                reraise=True,
            )(self.cancel, job)  # fmt: skip
        except (NotFound, *UNREACHABLE) as error:
            log.warning("%s, whose client has left, is not canceled: %s", job.id, type(error).__name__)

    async def delete(self, job: Job) -> None:
        """Forget a job and everything that it stored. The files go later if the artifact store takes its time.

        Raises:
            NotFound: it was deleted meanwhile.
        """
        if not await self._changes.finish(self._jobs.delete, job.id):
            raise no_such_video()
        emit("job.deleted", job_id=job.id, model=job.model)
        await asyncio.wait([self._delete_files(job)], timeout=FILES_S)

    def _delete_files(self, job: Job) -> asyncio.Task[None]:
        return self._unbroken.detach(self._delete_now(job), f"the deletion of the files of {job.id}")

    async def _delete_now(self, job: Job) -> None:
        try:
            await self._deletes.run(delete_job, self._artifacts, job)
        except Overloaded:
            log.warning("the files of %s are left to the sweeper: too many wait for the artifact store", job.id)


def no_such_video() -> NotFound:
    """The error of a request for a video that is not there, or that the caller may not see."""
    return NotFound("no such video; it may have been deleted", param="video_id")
