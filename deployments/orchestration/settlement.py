"""Turns the end of a job run, however it ended, into a state of the job: this is a job's error boundary."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Literal, Protocol, TypeVar

from deployments.background import until_written
from deployments.orchestration.lease import LeaseLost
from deployments.orchestration.stage_call import cause_of
from jobs.leases import Rendered
from jobs.lifecycle import Status
from jobs.record import Job
from jobs.stored import ResultMetadata
from pipelines.errors import JobFailed, OutOfMemory, ReplicaUnavailable, RequestError
from storage.errors import StorageUnavailable

log = logging.getLogger("ray.serve")

T = TypeVar("T")

STORAGE_DELAY_S = 10.0
REPLICA_DELAY_S = 5.0
"""Serve replaces a replica whose health check fails within half a minute."""

Outcome = Literal["completed", "failed", "retried", "postponed", "released"]
"""What became of a job: `retried` has cost an attempt, `postponed` waits for the artifact store or for a replica that
works, `released` goes on elsewhere at once."""


class SettlesJobs(Protocol):
    """What a settlement needs of `jobs.leases.Leases`. Each write returns whether the lease was valid."""

    def release(self, token: str, for_s: float = 0.0) -> bool: ...

    def fail(self, token: str, code: str, message: str) -> bool: ...

    def retry(self, token: str, attempt: int, message: str, max_attempts: int) -> Status | None: ...


class Completes(Protocol):
    """What a settlement needs of the write batcher of completions."""

    async def written(self, token: str, value: Rendered) -> bool: ...


class Ran(Protocol):
    """What a settlement needs of a job run that has ended."""

    @property
    def stage_seconds(self) -> dict[str, float]: ...

    @property
    def partial_stages(self) -> frozenset[str]: ...

    @property
    def result_metadata(self) -> ResultMetadata: ...


class Settlement:
    """Settles the job runs of one conductor. Every write carries the lease's token."""

    def __init__(
        self, leases: SettlesJobs, completions: Completes, max_attempts: int, stopped: Callable[[], bool]
    ) -> None:
        """
        Args:
            stopped: whether the conductor was told to stop, and tries each write only once.
        """
        self._leases = leases
        self._completions = completions
        self._max_attempts = max_attempts
        self._stopped = stopped

    async def settle(self, job: Job, token: str, run: Ran, running: asyncio.Task[None]) -> Outcome | None:
        """Store how a job run ended; None when the lease was lost and nothing was stored.

        `running` is the run's task, which has ended.
        """
        if running.cancelled():
            return "released" if await self._durably(self._leases.release, token) else None
        error = running.exception()
        if error is None:
            rendered = Rendered(run.stage_seconds, run.result_metadata, run.partial_stages)
            return "completed" if await self._completions.written(token, rendered) else None
        if isinstance(error, LeaseLost):
            return None
        cause = cause_of(error)
        if isinstance(cause, JobFailed | RequestError):
            return "failed" if await self._durably(self._leases.fail, token, cause.code, cause.message) else None
        if isinstance(cause, StorageUnavailable):
            log.warning("%s waits for the artifact store: %s", job.id, cause)
            return await self._postpone(token, STORAGE_DELAY_S)
        if isinstance(cause, ReplicaUnavailable):
            log.warning("%s goes on at another replica: %s", job.id, cause)
            return await self._postpone(token, REPLICA_DELAY_S)
        return await self._retry(job, token, error, cause)

    async def _postpone(self, token: str, mean_s: float) -> Outcome | None:
        # Random, as many jobs wait for the same thing.
        delay_s = mean_s * random.uniform(0.5, 1.5)
        return "postponed" if await self._durably(self._leases.release, token, delay_s) else None

    async def _retry(self, job: Job, token: str, error: BaseException, cause: BaseException) -> Outcome | None:
        log.warning("attempt %d of %s failed", job.attempts, job.id, exc_info=error)
        if isinstance(cause, OutOfMemory) and job.attempts >= self._max_attempts:
            return "failed" if await self._durably(self._leases.fail, token, cause.code, cause.message) else None
        message = (
            f"the video could not be rendered in {job.attempts} attempts; the last one ended with "
            f"{type(cause).__name__}"
        )
        status = await self._durably(self._leases.retry, token, job.attempts, message, self._max_attempts)
        if status is None:
            return None
        return "failed" if status is Status.FAILED else "retried"

    async def _durably(self, write: Callable[..., T], *values: object) -> T:
        """Repeat a write until it succeeds, because giving up would render the job again.

        The job's lease is still renewed meanwhile.
        """
        return await until_written(write, *values, stopped=self._stopped)
