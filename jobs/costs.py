"""What a leg of a job costs in seconds, learned from the jobs that finished: a straight line over its work.

`Job.work` says for each leg how much there is to do, in units of the model's family that grow with shape and steps.
Each finished job adds a point; old points fade, so that a change of hardware is learned within some dozens of jobs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, select

from jobs.database import insert_if_absent, update_each
from jobs.lifecycle import Leg
from jobs.schema import jobs, leg_costs

FADE = 0.98
FIRST_GUESS_S: dict[Leg, float] = {Leg.ENCODE: 0.5, Leg.DENOISE: 10.0, Leg.DECODE: 2.0, Leg.PUBLISH: 0.2}
"""What a leg is taken to cost before any job of its model has finished."""
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
    """Seconds of each leg of one job; `measured` when its model has finished jobs to learn from."""

    seconds: dict[Leg, float]
    measured: bool

    @property
    def computing_s(self) -> float:
        """Seconds on the machines that compute: everything but publishing."""
        return sum(spent for leg, spent in self.seconds.items() if leg is not Leg.PUBLISH)


def read_lines(connection: Connection, model: str, *, to_change: bool = False) -> dict[Leg, Line]:
    """What is known of a model's legs."""
    query = select(leg_costs).where(leg_costs.c.model == model)
    if to_change:
        query = query.order_by(leg_costs.c.leg).with_for_update()
    return {Leg(row.leg): Line(row.n, row.x, row.y, row.xx, row.xy) for row in connection.execute(query)}


def mean_seconds(lines: Mapping[Leg, Line]) -> dict[Leg, float]:
    """What the legs of a job have cost lately, on average."""
    return {leg: lines[leg].y / lines[leg].n if leg in lines else FIRST_GUESS_S[leg] for leg in Leg}


def estimate(lines: Mapping[Leg, Line], work: Mapping[str, float]) -> Estimate:
    """What a job with this work will cost."""
    seconds = {leg: lines[leg].at(work[leg]) if leg in lines and leg in work else FIRST_GUESS_S[leg] for leg in Leg}
    return Estimate(seconds, Leg.DENOISE in lines)


def learn(
    connection: Connection, model: str, finished: Sequence[tuple[Mapping[str, float], Mapping[Leg, float]]]
) -> None:
    """Add the legs of finished jobs, within the transaction that finishes them.

    Args:
        finished: the work and the seconds of each job.
    """
    legs = sorted({leg for work, seconds in finished for leg in seconds if leg in work})
    lines = read_lines(connection, model, to_change=True)
    if missing := [leg for leg in legs if leg not in lines]:
        for leg in missing:
            insert_if_absent(connection, leg_costs, model=model, leg=leg, n=0, x=0, y=0, xx=0, xy=0)
        lines = read_lines(connection, model, to_change=True)
    for work, seconds in finished:
        lines |= {leg: lines[leg].with_point(work[leg], each) for leg, each in seconds.items() if leg in work}
    # All jobs of a model that end at once wait here for each other, so it is one round trip for all legs.
    update_each(connection, leg_costs, [{"model": model, "leg": leg, **asdict(lines[leg])} for leg in legs])
