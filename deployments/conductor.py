"""Claims jobs by lease and runs the relay for each. Any number of replicas; all state is in the job store."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from ray import serve
from ray.exceptions import RayTaskError
from ray.serve.handle import DeploymentHandle

from deployments import metrics
from deployments.events import emit
from deployments.relay import Relay, Route
from deployments.settings import Settings, database_url
from jobs.database import UNREACHABLE
from jobs.lifecycle import Leg, Status
from jobs.record import Job
from jobs.store import CANCELED, JobStore
from pipelines.errors import JobFailed, RequestError

log = logging.getLogger("ray.serve")

T = TypeVar("T")

LONGEST_WAIT_S = 5.0


class LeaseLost(Exception):
    """The job was deleted or canceled, or another conductor has it."""


@dataclass(frozen=True, slots=True)
class Held:
    """A job that this conductor has claimed. Only `relay` is ever cancelled; `conduct` settles how it ended."""

    job: Job
    relay: asyncio.Task[None]
    conduct: asyncio.Task[None]


@serve.deployment(name="Conductor", max_ongoing_requests=1000, graceful_shutdown_timeout_s=20)
class Conductor:
    """Its relays are background work that Serve does not wait for: on shutdown it gives every job back."""

    def __init__(
        self,
        settings: Settings,
        legs: dict[str, dict[str, Any]],
        publisher: DeploymentHandle[Any],
    ) -> None:
        self.settings = settings
        self.routes = {model: Route(publisher=publisher, **handles) for model, handles in legs.items()}
        self.store = JobStore(database_url())
        self.owner = serve.get_replica_context().replica_id.unique_id
        self.held: dict[str, Held] = {}  # by lease token
        self.wake = asyncio.Event()
        self.stopping = False
        loop = asyncio.get_running_loop()
        self.claiming = loop.create_task(self._forever(self._claim_all))
        self.renewing = loop.create_task(self._forever(self._renew_all))

    async def nudge(self) -> None:
        """There is a new job. Saves it the wait for the next poll; losing this call loses nothing."""
        self.wake.set()

    def check_health(self) -> None:
        if self.claiming.done() or self.renewing.done():
            raise RuntimeError("the conductor's loop has ended")

    async def __del__(self) -> None:
        """Called by Serve when the replica stops: hand over every job it holds."""
        self.stopping = True
        self.wake.set()
        await self.claiming  # not cancelled: a claim on its way must come back to be released
        self.renewing.cancel()
        held = list(self.held.values())
        for each in held:
            each.relay.cancel()
        await asyncio.gather(*(each.conduct for each in held), return_exceptions=True)

    async def _forever(self, work: Any) -> None:
        while not self.stopping:
            try:
                await work()
            except Exception:
                # The store may be locked or its disk full for a while; jobs wait, none is lost.
                log.exception("the conductor's loop failed; it goes on in a second")
                await asyncio.sleep(1)

    async def _claim_all(self) -> None:
        self.wake.clear()
        while models := self._models_with_room():
            limits = self.settings.lease_s, self.settings.max_attempts
            job = await asyncio.to_thread(self.store.claim, self.owner, models, *limits)
            if job is None:
                break
            self._start(job)
        if self.stopping:
            return
        try:
            await asyncio.wait_for(self.wake.wait(), self.settings.poll_interval_s)
        except TimeoutError:
            pass  # nobody called: look for retries and abandoned jobs

    async def _renew_all(self) -> None:
        await asyncio.sleep(self.settings.lease_s / 3)
        tokens = set(self.held)
        if tokens:
            valid = await asyncio.to_thread(self.store.renew, tokens, self.settings.lease_s)
            for token in tokens - valid:
                if token in self.held:
                    self.held[token].relay.cancel()
        # After its own are renewed: whatever held this conductor up, they are not abandoned.
        attempts = self.settings.max_attempts
        message = f"the video could not be rendered in {attempts} attempts; the last one took its conductor with it"
        for job_id, model in await asyncio.to_thread(self.store.fail_spent, attempts, message):
            metrics.jobs_total().inc(1, {"model": model, "outcome": "failed"})
            emit("job.failed", job_id=job_id, model=model, attempt=attempts)

    def _models_with_room(self) -> list[str]:
        if self.stopping:
            return []
        busy = [each.job.model for each in self.held.values()]
        return [model for model in self.routes if busy.count(model) < self.settings.max_running]

    def _start(self, job: Job) -> None:
        token = job.lease_token
        assert token is not None
        if job.attempts == 1:
            metrics.queue_wait_seconds().observe(time.time() - job.created_at, {"model": job.model})
        emit("job.claimed", job_id=job.id, model=job.model, attempt=job.attempts)

        async def on_progress(leg: Leg, done: float) -> None:
            try:
                kept = await asyncio.to_thread(self.store.advance, token, leg, done)
            except UNREACHABLE as error:
                # Progress is only advice; whether the lease is lost, renewing it will tell.
                log.warning("the progress of %s could not be stored: %s", job.id, type(error).__name__)
                return
            if not kept:
                raise LeaseLost

        relay = Relay(job, self.routes[job.model], on_progress)
        loop = asyncio.get_running_loop()
        running = loop.create_task(relay.run())
        self.held[token] = Held(job, running, loop.create_task(self._conduct(job, token, relay, running)))

    async def _conduct(self, job: Job, token: str, relay: Relay, running: asyncio.Task[None]) -> None:
        """The job boundary: however the relay ends, it becomes a state of the job."""
        try:
            await asyncio.wait([running])
            outcome = await self._settle(job, token, relay, running)
            if outcome is None:
                now = await asyncio.to_thread(self.store.get, job.id)
                outcome = "canceled" if now is not None and now.error_code == CANCELED else "lease_lost"
                if now is None or now.status is Status.FAILED:
                    # Deleted or canceled, perhaps after the publisher had stored the video: leave nothing behind.
                    await self.routes[job.model].publisher.discard.remote(job.id)
            metrics.jobs_total().inc(1, {"model": job.model, "outcome": outcome})
            if outcome != CANCELED:  # which the API has said
                emit(f"job.{outcome}", job_id=job.id, model=job.model, attempt=job.attempts)
        except Exception:
            # Without a write the lease runs out, and the job is tried again if it has an attempt left.
            log.exception("how %s ended could not be stored; its lease will run out", job.id)
        finally:
            del self.held[token]
            self.wake.set()

    async def _settle(self, job: Job, token: str, relay: Relay, running: asyncio.Task[None]) -> str | None:
        """Write down how a relay ended; None when the lease was lost and nothing could be written."""
        if running.cancelled():
            return "released" if await self._durably(self.store.release, token) else None
        error = running.exception()
        if error is None:
            kept = await self._durably(self.store.complete, token, relay.seconds, relay.facts)
            return "completed" if kept else None
        if isinstance(error, LeaseLost):
            return None
        cause = error.as_instanceof_cause() if isinstance(error, RayTaskError) else error
        if isinstance(cause, JobFailed | RequestError):
            return "failed" if await self._durably(self.store.fail, token, cause.code, cause.message) else None
        log.warning("attempt %d of %s failed", job.attempts, job.id, exc_info=error)
        message = (
            f"the video could not be rendered in {job.attempts} attempts; the last one ended with "
            + type(cause).__name__
        )
        attempts = self.settings.max_attempts
        status = await self._durably(self.store.retry, token, job.attempts, message, attempts)
        if status is None:
            return None
        return "failed" if status is Status.FAILED else "retried"

    async def _durably(self, write: Callable[..., T], *values: Any) -> T:
        """Try a write that settles a job until the store can be reached: giving up would render it again.

        The job's lease goes on being renewed meanwhile. A conductor that is told to stop tries once.
        """
        wait = 0.2
        while True:
            try:
                return await asyncio.to_thread(write, *values)
            except UNREACHABLE:
                if self.stopping:
                    raise
                log.warning("the job store cannot be reached; trying again in %.1f s", wait)
            await asyncio.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT_S)
