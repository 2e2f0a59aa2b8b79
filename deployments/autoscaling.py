"""The application's autoscaling policy: computes how many replicas each stage needs from work, not from request counts.

Serve's own policy counts the calls that a deployment has. Queued jobs make no calls, and a call does not tell how long
it takes. Here the seconds of waiting work decide the number of denoisers, and the measured costs of the other stages
decide how many of each keep up. The other stages start together with the denoisers, before any job has reached them.

    applications:
      - autoscaling_policy:
          policy_function: deployments.autoscaling:Balance
          policy_kwargs: {drain_s: 60}

Serve's controller calls the policy ten times a second, so it never blocks: a separate thread reads the job store.
Bounds, delays and steps come from each deployment's `autoscaling_config`, as usual; every stage must have one.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from deployments.configuration.names import deployment_names
from deployments.configuration.settings import database_url
from jobs.costs import mean_seconds
from jobs.database import UNREACHABLE, Database
from jobs.lifecycle import AHEAD_OF_DENOISE
from jobs.schema import jobs
from jobs.store import JobStore
from pipelines.catalogue import read_anew
from pipelines.stages import Stage

log = logging.getLogger("ray.serve")

DENOISER = "Denoiser-"
BUSY = 0.8
"""The target utilization of an encoder or a decoder, below 1 so that a denoiser seldom waits for one."""
LOOK_EVERY_S = 0.5
STALE_S = 30.0
"""A view older than this is ignored: replicas stay as they are until the job store answers again."""


@dataclass(frozen=True, slots=True)
class Demand:
    """The work that one model's jobs need."""

    waiting: int  # jobs
    working: Mapping[Stage, int]  # jobs in each stage
    busy: int  # denoisers that have a job
    work_s: float  # seconds of computing that jobs before the end of their denoise still need
    stage_s: Mapping[Stage, float]  # average seconds of each stage of a job

    def denoisers(self, drain_s: float) -> int:
        """Denoisers that finish the work in `drain_s`; at most one per job, and at least those that are busy.

        A job that is past its denoise needs none, however long it waits for a bucket.
        """
        computing_s = sum(seconds for stage, seconds in self.stage_s.items() if stage is not Stage.PUBLISH)
        denoising_s = self.work_s * self.stage_s[Stage.DENOISE] / computing_s
        jobs = self.waiting + sum(self.working.get(stage, 0) for stage in AHEAD_OF_DENOISE)
        return min(jobs, max(self.busy, math.ceil(denoising_s / drain_s)))

    def replicas(self, stage: Stage, drain_s: float) -> float:
        """Replicas of one stage: the denoisers, or enough to keep up with them, and at least one if it has jobs.

        There are at least enough decoders to finish the jobs in that stage in `drain_s`: jobs may have arrived before
        there was a decoder.
        """
        denoisers = self.denoisers(drain_s)
        if stage is Stage.DENOISE:
            return denoisers
        seconds = self.stage_s[stage]
        keeping_up = denoisers * seconds / self.stage_s[Stage.DENOISE] / BUSY
        there = self.working.get(stage, 0)
        least = math.ceil(there * seconds / drain_s) if stage is Stage.DECODE else 1
        return max(keeping_up, min(there, least))


def replicas_needed(
    demands: Mapping[str, Demand], names: Mapping[str, Mapping[Stage, str]], drain_s: float
) -> dict[str, int]:
    """Replicas of each deployment. A deployment that several models share gets the sum of what each needs."""
    needed: dict[str, float] = {}
    for model, demand in demands.items():
        for stage, name in names[model].items():
            needed[name] = needed.get(name, 0.0) + demand.replicas(stage, drain_s)
    return {name: math.ceil(round(replicas, 6)) for name, replicas in needed.items()}


class Balance:
    """The policy that scales all stages together. A deployment missing from its answer keeps its replicas.

    Serve's controller calls it with a context for each deployment that scales. An error here would stop the controller,
    which also deploys and deletes, so every error is only logged.
    """

    def __init__(self, drain_s: float = 60.0) -> None:
        if drain_s <= 0:
            raise ValueError("drain_s must be positive: how many seconds the waiting work may take")
        self.drain_s = drain_s
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="demand")
        self._store: JobStore | None = None
        self._looking: Future[dict[str, int]] | None = None
        self._needed: dict[str, int] = {}
        self._seen_at = self._looked_at = -math.inf

    def __call__(self, contexts: Mapping[Any, Any]) -> tuple[dict[Any, int], None]:
        self._look([each.name.removeprefix(DENOISER) for each in contexts if each.name.startswith(DENOISER)])
        if time.monotonic() - self._seen_at > STALE_S:
            return {}, None
        decisions = {each: self._needed[each.name] for each in contexts if each.name in self._needed}
        for each, needed in decisions.items():
            # If no replica runs and calls wait, Serve uses the target instead of the answer.
            if contexts[each].current_num_replicas == 0:
                contexts[each].target_num_replicas = max(contexts[each].target_num_replicas, needed)
        return decisions, None

    def _look(self, models: list[str]) -> None:
        """Take the result of the last read of the job store, if it is done, and begin the next when it is time."""
        if self._looking is not None:
            if not self._looking.done():
                return
            looked, self._looking = self._looking, None
            try:
                self._needed, self._seen_at = looked.result(), time.monotonic()
            except UNREACHABLE as error:
                log.warning("replicas stay as they are: the job store cannot be read (%s)", type(error).__name__)
            except Exception:
                log.exception("replicas stay as they are")
        if time.monotonic() - self._looked_at >= LOOK_EVERY_S:
            self._looked_at = time.monotonic()
            self._looking = self._pool.submit(self._replicas, models)

    def _replicas(self, models: list[str]) -> dict[str, int]:
        if self._store is None:
            database = Database(database_url())
            database.ensure(jobs)  # the controller may be the first to open a SQLite store
            self._store = JobStore(database)
        # Read the cards again each time: the controller outlives every change of the catalogue.
        names = deployment_names({model: read_anew(model) for model in models})
        return replicas_needed({model: demand_of(self._store, model) for model in models}, names, self.drain_s)


class Backlog:
    """The same policy for one model's denoiser deployment only; the model's other stages scale by their calls.

    - name: Denoiser-ltx-video-0.9.5
      autoscaling_config:
        policy: {policy_function: deployments.autoscaling:Backlog, policy_kwargs: {drain_s: 60}}
    """

    def __init__(self, drain_s: float = 60.0) -> None:
        self._balance = Balance(drain_s)

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        decisions, _ = self._balance({context.deployment_id: context})
        needed: int = decisions.get(context.deployment_id, context.target_num_replicas)
        return needed, {}


def demand_of(store: JobStore, model: str) -> Demand:
    """The current demand of a model's jobs, from the job store. Blocks."""
    waiting, waiting_s = store.waiting(model)
    working = store.working(model)
    left_s = sum(working[stage][1] for stage in AHEAD_OF_DENOISE if stage in working)
    counts = {stage: count for stage, (count, _) in working.items()}
    return Demand(waiting, counts, store.denoising(model), waiting_s + left_s, mean_seconds(store.lines(model)))
