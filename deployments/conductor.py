"""Claims jobs by lease and runs the relay for each. Any number of replicas; all state is in the job store."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from typing import Any

from ray import serve
from ray.exceptions import RayTaskError
from ray.serve.handle import DeploymentHandle

from deployments import metrics
from deployments.events import emit
from deployments.relay import Relay, Route
from deployments.settings import Settings, data_dir
from jobs.lifecycle import Leg, Status
from jobs.record import Job
from jobs.store import JobStore
from pipelines.errors import JobFailed, RequestError


class LeaseLost(Exception):
    """The job was deleted, or another conductor has it."""


@serve.deployment(name="Conductor", max_ongoing_requests=1000, graceful_shutdown_timeout_s=20)
class Conductor:
    """Its relays are background work that Serve does not wait for: on shutdown it gives every job back."""

    def __init__(
        self,
        settings: Settings,
        legs: dict[str, dict[str, DeploymentHandle[Any]]],
        publisher: DeploymentHandle[Any],
    ) -> None:
        self.settings = settings
        self.routes = {model: Route(publisher=publisher, **handles) for model, handles in legs.items()}
        self.store = JobStore(data_dir() / "jobs.sqlite3")
        self.owner = serve.get_replica_context().replica_id.unique_id
        self.running: dict[str, tuple[Job, asyncio.Task[None]]] = {}  # by lease token
        self.wake = asyncio.Event()
        loop = asyncio.get_running_loop()
        self.background = [loop.create_task(self._forever(each)) for each in (self._claim_all, self._renew_all)]

    async def nudge(self) -> None:
        """There is a new job. Saves it the wait for the next poll; losing this call loses nothing."""
        self.wake.set()

    def check_health(self) -> None:
        for task in self.background:
            if task.done():
                raise RuntimeError("the conductor's loop has ended")

    async def __del__(self) -> None:
        """Called by Serve when the replica stops: hand over every job it holds."""
        tasks = [*self.background, *(task for _, task in self.running.values())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _forever(self, work: Any) -> None:
        while True:
            try:
                await work()
            except Exception:
                # The store may be locked or its disk full for a while; jobs wait, none is lost.
                emit("conductor.fault", level=logging.ERROR)
                logging.getLogger("ray.serve").exception("the conductor's loop failed; it goes on in a second")
                await asyncio.sleep(1)

    async def _claim_all(self) -> None:
        self.wake.clear()
        while models := self._models_with_room():
            job = await asyncio.to_thread(self.store.claim, self.owner, models, self.settings.lease_s)
            if job is None:
                break
            self._start(job)
        try:
            await asyncio.wait_for(self.wake.wait(), self.settings.poll_interval_s)
        except TimeoutError:
            pass  # nobody called: look for retries and abandoned jobs

    async def _renew_all(self) -> None:
        await asyncio.sleep(self.settings.lease_s / 3)
        tokens = set(self.running)
        if not tokens:
            return
        valid = await asyncio.to_thread(self.store.renew, tokens, self.settings.lease_s)
        for token in tokens - valid:
            if token in self.running:
                self.running[token][1].cancel()

    def _models_with_room(self) -> list[str]:
        busy = [job.model for job, _ in self.running.values()]
        return [model for model in self.routes if busy.count(model) < self.settings.max_running]

    def _start(self, job: Job) -> None:
        assert job.lease_token is not None
        metrics.queue_wait_seconds().observe(time.time() - job.created_at, {"model": job.model})
        emit("job.claimed", job_id=job.id, model=job.model, attempt=job.attempts)
        token = job.lease_token
        task = asyncio.get_running_loop().create_task(self._conduct(job, token))
        self.running[token] = (job, task)

    async def _conduct(self, job: Job, token: str) -> None:
        """The job boundary: whatever happens in the relay ends here as a state of the job."""

        async def on_progress(leg: Leg, done: float) -> None:
            if not await asyncio.to_thread(self.store.advance, token, leg, done):
                raise LeaseLost

        relay = Relay(job, self.routes[job.model], on_progress)
        try:
            await relay.run()
            kept = await asyncio.to_thread(self.store.complete, token, relay.seconds, relay.facts)
            self._ended(job, "completed" if kept else "lease_lost")
        except LeaseLost:
            self._ended(job, "lease_lost")
        except asyncio.CancelledError:
            await _finish(asyncio.to_thread(self.store.release, token))
            self._ended(job, "released")
            raise
        except Exception as error:
            await self._failed(job, token, error)
        finally:
            del self.running[token]
            self.wake.set()

    async def _failed(self, job: Job, token: str, error: Exception) -> None:
        cause = error.as_instanceof_cause() if isinstance(error, RayTaskError) else error
        if isinstance(cause, JobFailed | RequestError):
            await asyncio.to_thread(self.store.fail, token, cause.code, cause.message)
            self._ended(job, "failed", error=cause.message)
            return
        kind = type(cause).__name__
        logging.getLogger("ray.serve").warning("attempt %d of %s failed", job.attempts, job.id, exc_info=error)
        message = f"the video could not be rendered in {job.attempts} attempts; the last one ended with {kind}"
        status = await asyncio.to_thread(self.store.retry, token, "server_error", message, self.settings.max_attempts)
        self._ended(job, "failed" if status is Status.FAILED else "retried", error=kind)

    def _ended(self, job: Job, outcome: str, **fields: Any) -> None:
        metrics.jobs_total().inc(1, {"model": job.model, "outcome": outcome})
        emit(f"job.{outcome}", job_id=job.id, model=job.model, attempt=job.attempts, **fields)


async def _finish(work: Coroutine[Any, Any, Any]) -> None:
    """Await something to its end although this task is being cancelled."""
    await asyncio.shield(asyncio.ensure_future(work))
