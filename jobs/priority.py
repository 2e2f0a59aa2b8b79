"""The order of the queue: priority classes that age, and fairness between API keys, as one number per job.

Each model has a virtual clock that counts seconds of work (start-time fair queueing; Goyal, Vin and Cheng, 1996). A
*flow* is the jobs of one API key in one class. A job's turn begins at the clock's time or at the end of the previous
turn in its flow, whichever is later. So a flow that submits a thousand jobs at once spreads them over the future, and
another flow's first job goes between them. A lower class adds a fixed number of seconds. The sum is the job's
`queue_rank`, and jobs are claimed in this order.

This gives a bound: no flow of a higher class can put more than `AGEING_S` seconds of work, plus one job, ahead of a
job that is one class below it and first of its own flow. Low-priority jobs wait, but they do not starve. A job that had
its turn and was requeued, after a fault or by a conductor that stops, is no longer `fresh`: its rank stays, and it goes
before all jobs that are.
"""

from __future__ import annotations

from enum import StrEnum

AGEING_S = 600.0


class Priority(StrEnum):
    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"

    @property
    def handicap_s(self) -> float:
        """Seconds of work that a flow of the highest class may put ahead: `AGEING_S` for each class of difference."""
        return AGEING_S * list(Priority).index(self)


def fair_start(clock: float, own_end: float | None) -> float:
    """The start of a new job's turn; `own_end` is the end of the last live turn in its flow, if there is one."""
    return clock if own_end is None else max(clock, own_end)
