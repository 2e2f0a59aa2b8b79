"""How many replicas each leg needs, from work and not from request counts: the application's autoscaling policy.

Serve's own policy counts the calls that a deployment has. A queue of jobs makes no calls, and a call says nothing of
how long it takes: here the seconds of work that wait decide how many denoisers there are, and the measured costs of the
other legs how many of each keep up. Those start with the denoisers, before anything has come so far.

    applications:
      - autoscaling_policy:
          policy_function: deployments.scaling:Balance
          policy_kwargs: {drain_s: 60}

It runs in Serve's controller ten times a second, so it never waits: the job store is read in a thread beside it.
Bounds, delays and steps are those of each deployment's `autoscaling_config`, as ever; every leg must have one.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from deployments.graph import deployment_names
from deployments.settings import database_url
from jobs.costs import mean_seconds
from jobs.database import UNREACHABLE, Database
from jobs.lifecycle import AHEAD_OF_DENOISE, Leg
from jobs.store import JobStore
from pipelines.card import Leg as PipelineLeg
from pipelines.catalogue import load_catalogue

log = logging.getLogger("ray.serve")

DENOISER = "Denoiser-"
BUSY = 0.8
"""The share of its time that an encoder or a decoder is to be busy, so that a denoiser seldom waits for one."""
LOOK_EVERY_S = 0.5
STALE_S = 30.0
"""A view so old says nothing: replicas stay as they are until the job store answers again."""
COSTS: dict[PipelineLeg, Leg] = {"text": Leg.ENCODE, "image": Leg.ENCODE, "denoise": Leg.DENOISE, "decode": Leg.DECODE}


@dataclass(frozen=True, slots=True)
class Demand:
    """What one model's jobs need."""

    waiting: int  # jobs
    working: Mapping[Leg, int]  # jobs in each leg
    work_s: float  # seconds of computing that those before the end of their denoise still need
    leg_s: Mapping[Leg, float]  # what each leg of a job takes on average

    def denoisers(self, drain_s: float) -> int:
        """As many as have the work done in `drain_s`; not more than there are jobs, nor fewer than are at work.

        A job that is past its denoise needs none, however long it waits for a bucket.
        """
        computing_s = sum(seconds for leg, seconds in self.leg_s.items() if leg is not Leg.PUBLISH)
        denoising_s = self.work_s * self.leg_s[Leg.DENOISE] / computing_s
        working = sum(self.working.get(leg, 0) for leg in AHEAD_OF_DENOISE)
        return min(self.waiting + working, max(working, math.ceil(denoising_s / drain_s)))

    def replicas(self, leg: PipelineLeg, drain_s: float) -> float:
        """Of one leg: denoisers, or what keeps up with them, and at least one for jobs that are in it."""
        denoisers = self.denoisers(drain_s)
        if leg == "denoise":
            return denoisers
        keeping_up = denoisers * self.leg_s[COSTS[leg]] / self.leg_s[Leg.DENOISE] / BUSY
        return max(keeping_up, min(self.working.get(COSTS[leg], 0), 1))


def replicas_needed(
    demands: Mapping[str, Demand], names: Mapping[str, Mapping[PipelineLeg, str]], drain_s: float
) -> dict[str, int]:
    """Replicas of each deployment. One that several models share has the sum of what each needs."""
    needed: dict[str, float] = {}
    for model, demand in demands.items():
        for leg, name in names[model].items():
            needed[name] = needed.get(name, 0.0) + demand.replicas(leg, drain_s)
    return {name: math.ceil(round(replicas, 6)) for name, replicas in needed.items()}


class Balance:
    """Called by Serve's controller with a context for each deployment that scales."""

    def __init__(self, drain_s: float = 60.0) -> None:
        if drain_s <= 0:
            raise ValueError("drain_s must be positive: how many seconds the waiting work may take")
        self.drain_s = drain_s
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="demand")
        self._store: JobStore | None = None
        self._looking: Future[dict[str, Demand]] | None = None
        self._demands: dict[str, Demand] | None = None
        self._seen_at = self._looked_at = -math.inf

    def __call__(self, contexts: Mapping[Any, Any]) -> tuple[dict[Any, int], None]:
        models = [each.name.removeprefix(DENOISER) for each in contexts if each.name.startswith(DENOISER)]
        self._look(models)
        if self._demands is None or time.monotonic() - self._seen_at > STALE_S:
            return {each: context.target_num_replicas for each, context in contexts.items()}, None
        cards = {model: card for model, card in load_catalogue().items() if model in self._demands}
        needed = replicas_needed(self._demands, deployment_names(cards), self.drain_s)
        return {each: needed.get(each.name, context.target_num_replicas) for each, context in contexts.items()}, None

    def _look(self, models: list[str]) -> None:
        """Take the last look's answer, if it is there, and begin the next when it is time."""
        if self._looking is not None:
            if not self._looking.done():
                return
            try:
                self._demands, self._seen_at = self._looking.result(), time.monotonic()
            except UNREACHABLE as error:
                log.warning("replicas stay as they are: the job store cannot be read (%s)", type(error).__name__)
            self._looking = None
        if time.monotonic() - self._looked_at >= LOOK_EVERY_S:
            self._looked_at = time.monotonic()
            self._looking = self._pool.submit(self._demand, models)

    def _demand(self, models: list[str]) -> dict[str, Demand]:
        if self._store is None:
            self._store = JobStore(Database(database_url()))
        demands = {}
        for model in models:
            waiting, waiting_s = self._store.waiting(model)
            working = self._store.working(model)
            left_s = sum(working[leg][1] for leg in AHEAD_OF_DENOISE if leg in working)
            counts = {leg: count for leg, (count, _) in working.items()}
            demands[model] = Demand(waiting, counts, waiting_s + left_s, mean_seconds(self._store.lines(model)))
        return demands
