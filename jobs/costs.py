"""The cost of each stage of a job in seconds: a straight line over its work, fitted to finished jobs.

`Job.work` gives the work of each stage, in units of the model's family that grow with shape and steps. Each finished
job adds a point, and old points fade, so the lines adapt to a change of hardware within some dozens of jobs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, select

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
"""The assumed cost of a stage before any job of its model has finished."""
LEFT_S: ColumnElement[Any] = jobs.c.cost_s * (100 - jobs.c.progress) / 100
"""Estimated seconds of computing that a job still needs."""


@dataclass(frozen=True, slots=True)
class Line:
    """Faded sums over the points; they determine the least-squares line."""

    n: float
    x: float
    y: float
    xx: float
    xy: float

    def at(self, work: float) -> float:
        """Seconds for this much work; the line goes through the origin unless both fitted coefficients are positive."""
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
    """Seconds of each stage of one job; `measured` is true when finished jobs of its model support them."""

    seconds: dict[Stage, float]
    measured: bool

    @property
    def computing_s(self) -> float:
        """Seconds on the machines that compute: all stages except publish."""
        return sum(spent for stage, spent in self.seconds.items() if stage is not Stage.PUBLISH)


_COSTS = select(stage_costs).where(stage_costs.c.model == bindparam("model"))
_LOCK_COSTS = _COSTS.order_by(stage_costs.c.stage).with_for_update()


def read_lines(connection: Connection, model: str, *, to_change: bool = False) -> dict[Stage, Line]:
    """The fitted lines of a model's stages; `to_change` locks them."""
    rows = [
        (Stage.named(row.stage), row)
        for row in connection.execute(_LOCK_COSTS if to_change else _COSTS, {"model": model})
    ]
    return {stage: Line(row.n, row.x, row.y, row.xx, row.xy) for stage, row in rows if stage is not None}


def mean_seconds(lines: Mapping[Stage, Line]) -> dict[Stage, float]:
    """The recent mean cost of each stage; stages without data cost 0 for a measured model, else the first guess."""
    unknown = dict.fromkeys(Stage, 0.0) if Stage.DENOISE in lines else FIRST_GUESS_S
    return {stage: lines[stage].y / lines[stage].n if stage in lines else unknown[stage] for stage in Stage}


def estimate(lines: Mapping[Stage, Line], work: Mapping[str, float]) -> Estimate:
    """Estimate the cost of a job with this work. The job does not run stages that its work omits."""

    def seconds(stage: Stage) -> float:
        if work and stage not in work:
            return 0.0
        return lines[stage].at(work[stage]) if stage in lines and stage in work else FIRST_GUESS_S[stage]

    return Estimate({stage: seconds(stage) for stage in Stage}, Stage.DENOISE in lines)


def learn(
    connection: Connection, model: str, finished: Sequence[tuple[Mapping[str, float], Mapping[str, float]]]
) -> None:
    """Add the stages of finished jobs to the lines, within the transaction that completes those jobs.

    Args:
        finished: the work and the seconds of each job.
    """
    points = [
        (stage, work[stage], spent)
        for work, seconds in finished
        for name, spent in seconds.items()
        if (stage := Stage.named(name)) is not None and stage in work
    ]
    stages = sorted({stage for stage, _, _ in points})
    lines = read_lines(connection, model, to_change=True)
    if missing := [stage for stage in stages if stage not in lines]:
        for stage in missing:
            insert_if_absent(connection, stage_costs, model=model, stage=stage, n=0, x=0, y=0, xx=0, xy=0)
        lines = read_lines(connection, model, to_change=True)
    for stage, amount, spent in points:
        lines[stage] = lines[stage].with_point(amount, spent)
    # Jobs of a model that end at the same time wait here for each other, so one round trip updates all stages.
    update_each(connection, stage_costs, [{"model": model, "stage": stage, **asdict(lines[stage])} for stage in stages])
