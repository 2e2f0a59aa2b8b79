"""What a stage of a job costs in seconds, learned from the jobs that finished: a straight line over its work.

`Job.work` says for each stage how much there is to do, in units of the model's family that grow with shape and steps.
Each finished job adds a point; old points fade, so that a change of hardware is learned within some dozens of jobs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, select

from jobs.database import insert_if_absent, update_each
from jobs.schema import jobs, stage_costs
from pipelines.stages import Stage

FADE = 0.98
FIRST_GUESS_S: dict[Stage, float] = {
    Stage.TEXT_ENCODE: 0.25,
    Stage.IMAGE_ENCODE: 0.25,
    Stage.DENOISE: 10.0,
    Stage.DECODE: 2.0,
    Stage.VIDEO_ENCODE: 0.0,
    Stage.PUBLISH: 0.2,
}
"""What a stage is taken to cost before any job of its model has finished."""
LEFT_S: ColumnElement[Any] = jobs.c.cost_s * (100 - jobs.c.progress) / 100
"""Estimated seconds of computing that a job still needs."""


@dataclass(frozen=True, slots=True)
class Line:
    """Faded sums of the points seen, from which the least-squares line follows."""

    n: float
    x: float
    y: float
    xx: float
    xy: float

    def at(self, work: float) -> float:
        """Seconds for so much work; through the origin where the points do not show two positive coefficients."""
        spread = self.n * self.xx - self.x * self.x
        if spread > 1e-9 * self.n * self.xx:
            slope = (self.n * self.xy - self.x * self.y) / spread
            constant = (self.y - slope * self.x) / self.n
            if slope > 0 and constant > 0:
                return constant + slope * work
        return self.xy / self.xx * work if self.xx else self.y / self.n

    def with_point(self, work: float, seconds: float) -> Line:
        return Line(
            self.n * FADE + 1,
            self.x * FADE + work,
            self.y * FADE + seconds,
            self.xx * FADE + work * work,
            self.xy * FADE + work * seconds,
        )


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds of each stage of one job; `measured` when its model has finished jobs to learn from."""

    seconds: dict[Stage, float]
    measured: bool

    @property
    def computing_s(self) -> float:
        """Seconds on the machines that compute: everything but publishing."""
        return sum(spent for stage, spent in self.seconds.items() if stage is not Stage.PUBLISH)


def read_lines(connection: Connection, model: str, *, to_change: bool = False) -> dict[Stage, Line]:
    """What is known of a model's stages."""
    query = select(stage_costs).where(stage_costs.c.model == model)
    if to_change:
        query = query.order_by(stage_costs.c.stage).with_for_update()
    return {Stage(row.stage): Line(row.n, row.x, row.y, row.xx, row.xy) for row in connection.execute(query)}


def mean_seconds(lines: Mapping[Stage, Line]) -> dict[Stage, float]:
    """What the stages of a job have cost lately, on average; of a model that was measured, nothing for the others."""
    unknown = dict.fromkeys(Stage, 0.0) if Stage.DENOISE in lines else FIRST_GUESS_S
    return {stage: lines[stage].y / lines[stage].n if stage in lines else unknown[stage] for stage in Stage}


def estimate(lines: Mapping[Stage, Line], work: Mapping[str, float]) -> Estimate:
    """What a job with this work will cost. A stage without work is not its own."""

    def seconds(stage: Stage) -> float:
        if work and stage not in work:
            return 0.0
        return lines[stage].at(work[stage]) if stage in lines and stage in work else FIRST_GUESS_S[stage]

    return Estimate({stage: seconds(stage) for stage in Stage}, Stage.DENOISE in lines)


def learn(
    connection: Connection, model: str, finished: Sequence[tuple[Mapping[str, float], Mapping[str, float]]]
) -> None:
    """Add the stages of finished jobs, within the transaction that finishes them.

    Args:
        finished: the work and the seconds of each job.
    """
    finished = [
        (work, {stage: each for stage in Stage if stage in work and (each := seconds.get(stage)) is not None})
        for work, seconds in finished
    ]
    stages = sorted({Stage(stage) for _, seconds in finished for stage in seconds})
    lines = read_lines(connection, model, to_change=True)
    if missing := [stage for stage in stages if stage not in lines]:
        for stage in missing:
            insert_if_absent(connection, stage_costs, model=model, stage=stage, n=0, x=0, y=0, xx=0, xy=0)
        lines = read_lines(connection, model, to_change=True)
    for work, seconds in finished:
        lines |= {Stage(stage): lines[Stage(stage)].with_point(work[stage], each) for stage, each in seconds.items()}
    # All jobs of a model that end at once wait here for each other, so it is one round trip for all stages.
    update_each(connection, stage_costs, [{"model": model, "stage": stage, **asdict(lines[stage])} for stage in stages])
