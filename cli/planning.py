"""How many replicas a rate of jobs needs, and how long a job then takes: the stages as queues one behind another.

Jobs come at random moments (a Poisson process) and are served first come, first served; a stage takes the same time for
each. A real service also preempts, ages and fails: this says how large a cluster has to be, not how it behaves.
"""

from __future__ import annotations

import heapq
import math
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pipelines.stages import Stage

JOBS = 20_000
"""Simulated for each plan: enough for a 95th percentile that is good to a few percent."""


@dataclass(frozen=True, slots=True)
class StagePlan:
    """A stage with its replicas."""

    stage: Stage
    seconds: float
    replicas: int

    def utilisation(self, rate: float) -> float:
        """The share of its time that a replica works, at so many jobs a second."""
        return rate * self.seconds / self.replicas


@dataclass(frozen=True, slots=True)
class Plan:
    """What a rate needs, and what its jobs get."""

    stages: tuple[StagePlan, ...]
    p50_s: float
    p95_s: float


def plan(rate: float, seconds: Mapping[Stage, float], *, busy: float, within_s: float | None = None) -> Plan:
    """The fewest replicas that are busy for at most a share of their time, and more until 95 % of jobs are in time.

    Args:
        rate: jobs a second.
        seconds: of each stage that needs replicas of its own.
        busy: between 0 and 1.
        within_s: what 95 % of the jobs may take, from accepted to decoded; None asks for nothing.

    Raises:
        ValueError: no number of replicas makes a job so fast.
    """
    if within_s is not None and sum(seconds.values()) >= within_s:
        raise ValueError(f"one job alone takes {sum(seconds.values()):.1f} s; ask for more than that")
    stages = tuple(
        StagePlan(stage, seconds[stage], max(math.ceil(rate * seconds[stage] / busy), 1))
        for stage in Stage
        if stage in seconds
    )
    while True:
        waits = simulate(rate, stages)
        alone = sum(stage.seconds for stage in stages)
        latencies = [alone + sum(each) for each in zip(*waits, strict=True)]
        p95 = _p95(latencies)
        if within_s is None or p95 <= within_s:
            return Plan(stages, statistics.median(latencies), p95)
        longest = max(range(len(stages)), key=lambda place: _p95(waits[place]))  # where one more replica helps most
        stages = tuple(replace(each, replicas=each.replicas + (place == longest)) for place, each in enumerate(stages))


def simulate(rate: float, stages: Sequence[StagePlan], jobs: int = JOBS, seed: int = 0) -> list[list[float]]:
    """Seconds that each job waits at each stage."""
    dice = random.Random(seed)
    arrivals: list[float] = []
    now = 0.0
    for _ in range(jobs):
        now += dice.expovariate(rate)
        arrivals.append(now)
    waits: list[list[float]] = []
    there = arrivals
    for stage in stages:
        free = [0.0] * stage.replicas
        begin: list[float] = []
        for at in there:  # every job takes as long, so none overtakes another
            begin.append(max(at, free[0]))
            heapq.heapreplace(free, begin[-1] + stage.seconds)
        waits.append([began - at for began, at in zip(begin, there, strict=True)])
        there = [began + stage.seconds for began in begin]
    return waits


def _p95(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=20)[-1]
