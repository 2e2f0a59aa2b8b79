"""The conductor claims jobs by lease and runs each through its stages.

It can have any number of replicas, because all state is in the job store.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from ray import serve
from ray.serve.handle import DeploymentHandle

from deployments import metrics
from deployments.background import forever, until_set, until_written
from deployments.configuration.names import deployment_names
from deployments.configuration.settings import Settings, data_dir, database_url
from deployments.events import emit
from deployments.orchestration.denoiser_pool import DenoiserPool
from deployments.orchestration.job_run import JobRun, plan_of
from deployments.orchestration.lease import Lease
from deployments.orchestration.publication_backlog import PublicationBacklog
from deployments.orchestration.queue_wait import first_wait_s
from deployments.orchestration.ray_stage import RayStage
from deployments.orchestration.renewal import Renewal
from deployments.orchestration.replica_news import ReplicaNews, listen
from deployments.orchestration.replicas import look
from deployments.orchestration.settlement import Settlement
from deployments.orchestration.stage_call import StageHandle
from deployments.orchestration.takeover_guard import TakeoverGuard
from deployments.orchestration.write_batcher import WriteBatcher
from deployments.stages.worker import this_replica
from jobs.allocation import Allocation
from jobs.database import open_database
from jobs.leases import Leases
from jobs.lifecycle import CANCELED
from jobs.priority import Priority
from jobs.record import Job
from jobs.retention import Retention
from jobs.store import JobStore
from pipelines.stages import Stage
from storage.keys import checkpoint_prefix, prefixes_of
from storage.store import refuse_foreign

log = logging.getLogger("ray.serve")

T = TypeVar("T")

LOOK_EVERY_S, PREEMPT_EVERY_S, TIDY_EVERY_S = 0.5, 1.0, 1.0
CHECK_EVERY_S = 0.75
"""How soon a conductor learns that a job was canceled or deleted while no stage reports: a stage between steps stops
within a second then."""
CLAIMS_AT_ONCE = 16
"""The most jobs that one transaction claims."""
DISCARD_S = 5.0
GATHER_S = 0.5
"""How long progress reports gather for one write. Denoisers report once a second; the first is written at once."""
PAUSE_S = 0.05
"""The pause after each search for jobs to claim: a freed denoiser and an ended job are often signalled together."""


@dataclass(frozen=True, slots=True)
class Held:
    """A job that this conductor has claimed. Only `running` is ever cancelled; `conduct` records how it ended."""

    job_run: JobRun
    running: asyncio.Task[None]
    conduct: asyncio.Task[None]


@serve.deployment(name="Conductor", max_ongoing_requests=1000, graceful_shutdown_timeout_s=60)
class Conductor:
    """Runs jobs as background work, which Serve does not wait for: on shutdown the conductor requeues every job."""

    def __init__(
        self,
        settings: Settings,
        stages: dict[str, dict[Stage, DeploymentHandle[Any]]],
        publisher: DeploymentHandle[Any],
    ) -> None:
        self.settings = settings
        self.publisher = publisher
        self.cards = settings.cards()
        self.stages: dict[str, dict[Stage, StageHandle]] = {
            model: {stage: RayStage(handle) for stage, handle in {**handles, Stage.PUBLISH: publisher}.items()}
            for model, handles in stages.items()
        }
        database = open_database(database_url())
        refuse_foreign(settings.bucket, data_dir(), Retention(database).store_id())
        self.store, self.leases, self.allocation = JobStore(database), Leases(database), Allocation(database)
        self.owner = this_replica()
        self.held: dict[str, Held] = {}  # by lease token
        self.wake = asyncio.Event()
        self.backlog = PublicationBacklog(self._unpublished, settings.max_unpublished, settings.max_unpublished_bytes)
        deployments = deployment_names(self.cards)
        denoisers = {model: names[Stage.DENOISE] for model, names in deployments.items()}
        self.denoiser_pool = DenoiserPool(
            self.allocation, denoisers, on_freed=self.wake.set, paused=self.backlog.is_full
        )
        self.replica_news = ReplicaNews()
        watched = {"Publisher", *(each for names in deployments.values() for each in names.values())}
        self.listening = listen(watched, lambda _: self.replica_news.changed())
        self.stopping = False
        loop = asyncio.get_running_loop()
        self.takeover_guard = TakeoverGuard(settings.lease_s)
        self.renewing = Renewal(
            self.leases,
            self.takeover_guard,
            lease_s=settings.lease_s,
            max_attempts=settings.max_attempts,
            held=lambda: self.held,
            on_lost=self._abort,
        )
        self.claiming = loop.create_task(forever(self._claim_all, self._stops))
        self.renewal = loop.create_task(forever(self._renew_all))
        move = partial(self.leases.move, lease_s=settings.lease_s)
        self.positions = WriteBatcher(move, on_lost=self._abort, pause_s=GATHER_S)
        completions = WriteBatcher(self.leases.complete, stopped=self._stops)
        self.settlement = Settlement(self.leases, completions, settings.max_attempts, self._stops)
        self.pending_cleanup: list[str] = []  # prefixes of files
        loops = (self._check_all, self._watch_replicas, self._preempt, self.denoiser_pool.assign, self._tidy)
        self.others = [loop.create_task(forever(work)) for work in loops]

    async def notify(self) -> None:
        """Report a new job, so that it does not wait for the next poll. A lost call does no harm."""
        self.wake.set()

    def check_health(self) -> None:
        if any(loop.done() for loop in (self.claiming, self.renewal, *self.others)):
            raise RuntimeError("the conductor's loop has ended")

    async def __del__(self) -> None:
        """Requeue every job that this replica holds. Serve calls this when the replica stops."""
        self.stopping = True
        self.wake.set()
        await self.claiming  # not cancelled: a claim in flight must return so that its job can be released
        for loop in self.others:
            loop.cancel()
        conducts = [each.conduct for each in self.held.values()]
        for token in list(self.held):
            self._abort(token)
        await asyncio.gather(*conducts, return_exceptions=True)
        self.renewal.cancel()  # only now: a step may take longer than a lease
        with suppress(TimeoutError):  # if the application is being deleted, the publisher may be gone
            await asyncio.wait_for(self._discard(), DISCARD_S)

    def _stops(self) -> bool:
        return self.stopping

    async def _claim_all(self) -> None:
        self.wake.clear()
        for model in self.cards:
            while not self.stopping and not self.backlog.is_full():
                # One is asked for though there is no room: abandoned and denoised jobs need none.
                most = min(max(self._room(model), 1), CLAIMS_AT_ONCE)
                claimed = await asyncio.to_thread(self._claim, model, self._capacity(model), most)
                for job in claimed:
                    self._start(job)
                if len(claimed) < most or not (most == CLAIMS_AT_ONCE or any(map(_had_its_turn, claimed))):
                    break
        if self.stopping:
            return
        await asyncio.sleep(PAUSE_S)
        # Also search without a notification: retries and abandoned jobs send none.
        await until_set(self.wake, self.settings.poll_interval_s)

    async def _renew_all(self) -> None:
        await self.renewing.renew()
        await asyncio.sleep(self.settings.lease_s / 3)

    async def _check_all(self) -> None:
        await asyncio.sleep(CHECK_EVERY_S)
        await self.renewing.check()

    def _unpublished(self) -> list[int]:
        sizes = (each.job_run.unpublished_bytes for each in self.held.values())
        return [size for size in sizes if size is not None]

    def _abort(self, token: str) -> None:
        """Abort a job run: the job was deleted or canceled, another conductor has it, or this conductor stops."""
        if token in self.held and not (running := self.held[token].running).cancelling():
            running.cancel()  # only once: a second cancel would make it stop waiting for its stage to end

    async def _watch_replicas(self) -> None:
        """Refresh the list of replicas, and migrate the jobs of replicas that were told to stop."""
        if self.replica_news.is_due():
            self.denoiser_pool.replicas = await asyncio.to_thread(look)
            self.replica_news.looked()  # a look that fails stays due
        now = self.denoiser_pool.replicas
        for each in self.held.values():
            if each.job_run.replica in now.stopping or each.job_run.waits_in_vain():
                each.job_run.migrate()
        await asyncio.sleep(LOOK_EVERY_S)

    async def _preempt(self) -> None:
        """Preempt the jobs whose denoisers go to jobs of a higher class."""
        await asyncio.sleep(PREEMPT_EVERY_S)
        if (after_s := self.settings.preempt_after_s) is None:
            return
        lower = {
            each.job_run.job.model for each in self.held.values() if each.job_run.job.priority is not Priority.HIGH
        }
        for model in lower:
            denoisers = len(self.denoiser_pool.denoisers(model))
            for token in await asyncio.to_thread(self.allocation.preempted, model, denoisers, after_s):
                if token in self.held:
                    self.held[token].job_run.preempt()

    async def _tidy(self) -> None:
        await asyncio.sleep(TIDY_EVERY_S)
        await self._discard()

    async def _discard(self) -> None:
        """Have the publisher delete the remaining files of ended jobs. The sweeper removes what this misses."""
        pending_cleanup, self.pending_cleanup = self.pending_cleanup, []
        if pending_cleanup:
            await self.publisher.discard.remote(pending_cleanup)

    def _capacity(self, model: str) -> int:
        """How many jobs of a model may have a denoiser or wait for one."""
        denoisers = len(self.denoiser_pool.denoisers(model))
        return denoisers + max(self.settings.look_ahead, denoisers)  # all denoisers may finish at once

    def _room(self, model: str) -> int:
        """How many more there is room for, as far as this conductor knows; it may be negative."""
        held = [each.job_run for each in self.held.values()]
        return self._capacity(model) - sum(each.job.model == model and each.wants_denoiser for each in held)

    def _claim(self, model: str, capacity: int, most: int) -> list[Job]:
        return self.leases.claim(
            model,
            owner=self.owner,
            lease_s=self.settings.lease_s,
            max_attempts=self.settings.max_attempts,
            capacity=capacity,
            begins_with=next(stage for stage in Stage if stage in self.cards[model].STAGES),
            take_over=self.takeover_guard.trusted(),
            most=most,
        )

    def _start(self, job: Job) -> None:
        lease = Lease(self.leases, self.positions, job)
        if (waited_s := first_wait_s(job)) is not None:
            metrics.queue_wait_seconds().observe(waited_s, {"model": job.model})
        emit("job.claimed", job_id=job.id, model=job.model, attempt=job.attempts)
        plan = partial(plan_of, self.cards[job.model])
        job_run = JobRun(job, plan, self.stages[job.model], lease, self.denoiser_pool)
        loop = asyncio.get_running_loop()
        running = loop.create_task(job_run.run())
        conduct = loop.create_task(self._conduct(job, lease.token, job_run, running))
        self.held[lease.token] = Held(job_run, running, conduct)

    async def _conduct(self, job: Job, token: str, job_run: JobRun, running: asyncio.Task[None]) -> None:
        """Wait for the end of a job run, have it settled, and do what follows from it."""
        outcome: str | None = None
        try:
            await asyncio.wait([running])
            self.positions.drop(token)
            outcome = await self.settlement.settle(job, token, job_run, running)
            if outcome is None:
                now = await until_written(self.store.get, job.id, stopped=self._stops)
                outcome = "canceled" if now is not None and now.error_code == CANCELED else "lease_lost"
                if now is None or now.error_code == CANCELED:
                    # Deleted or canceled, perhaps after the publisher had stored the video: remove all its files.
                    self.pending_cleanup += prefixes_of(job)
            elif outcome in ("completed", "failed"):
                self.pending_cleanup.append(checkpoint_prefix(job.id))
            metrics.jobs_total().inc(1, {"model": job.model, "outcome": outcome})
            if outcome != CANCELED:  # the API has already logged this event
                emit(f"job.{outcome}", job_id=job.id, model=job.model, attempt=job.attempts)
        except Exception:
            # Without this write the lease expires, and the job is tried again if it has an attempt left.
            log.exception("how %s ended could not be stored; its lease will run out", job.id)
        finally:
            del self.held[token]
            if outcome != "completed":  # a completed job freed its denoiser long before
                self.denoiser_pool.freed()


def _had_its_turn(job: Job) -> bool:
    """Whether a claimed job may be one that needed no room: one that was abandoned, or denoised before."""
    return job.attempts > 1 or not job.fresh
