"""How many replicas a rate of jobs needs, and how long a job then takes: it simulates the stages as queues in series.

Jobs arrive at random (a Poisson process) and are served first come, first served; a stage takes the same time for each
job. A real service also preempts, ages and fails: this gives the size of a cluster, not its behaviour.
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
"""Jobs simulated for each plan: enough for a 95th percentile that is accurate to a few percent."""


@dataclass(frozen=True, slots=True)
class StagePlan:
    """A stage with its replicas."""

    stage: Stage
    seconds: float
    replicas: int

    def utilisation(self, rate: float) -> float:
        """The share of its time that a replica works, at `rate` jobs per second."""
        return rate * self.seconds / self.replicas


@dataclass(frozen=True, slots=True)
class Plan:
    """The stages that a rate needs, and the latency of its jobs in seconds."""

    stages: tuple[StagePlan, ...]
    p50_s: float
    p95_s: float


def plan(rate: float, seconds: Mapping[Stage, float], *, busy: float, within_s: float | None = None) -> Plan:
    """The fewest replicas that are busy for at most the share `busy`, and more until 95 % of jobs are in time.

    Args:
        rate: jobs per second.
        seconds: the time of each stage that needs its own replicas.
        busy: the most that a replica may work, as a share of its time between 0 and 1.
        within_s: seconds that 95 % of the jobs may take, from accepted to decoded; None sets no limit.

    Raises:
        ValueError: no number of replicas makes a job that fast.
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
        longest = max(range(len(stages)), key=lambda place: _p95(waits[place]))  # one more replica helps most here
        stages = tuple(replace(each, replicas=each.replicas + (place == longest)) for place, each in enumerate(stages))


def simulate(rate: float, stages: Sequence[StagePlan], jobs: int = JOBS, seed: int = 0) -> list[list[float]]:
    """The seconds that each job waits at each stage: one list per stage."""
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
        for at in there:  # every job takes the same time, so none overtakes another
            begin.append(max(at, free[0]))
            heapq.heapreplace(free, begin[-1] + stage.seconds)
        waits.append([began - at for began, at in zip(begin, there, strict=True)])
        there = [began + stage.seconds for began in begin]
    return waits


def _p95(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=20)[-1]
