"""The order of the queue: priority classes that age, and fairness between API keys, as one number per job.

Each model has a virtual clock that counts seconds of work (start-time fair queueing; Goyal, Vin and Cheng, 1996). A
*flow* is the jobs of one API key in one class. A job's turn begins where the clock stands, or where the turn of the job
before it in its flow ends, whichever is later; so a flow that submits a thousand jobs at once spreads them over the
future, and another's first job goes between them. A lower class adds a fixed number of seconds to that. Jobs are
claimed in order of the sum.

The bound that follows: no flow of a higher class can put more than `AGEING_S` seconds of work, and one job, ahead of a
job that is one class below it and first of its own flow. Low priority waits; it does not starve. A job that had its
turn and was given back, after a fault or by a conductor that stops, comes before all others.
"""

from __future__ import annotations

from enum import StrEnum

AGEING_S = 600.0
HAD_ITS_TURN = 1e12
"""What is taken from the sum of a job that is given back: it goes on before all that have not begun."""


class Priority(StrEnum):
    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"

    @property
    def handicap_s(self) -> float:
        """Seconds of work of a flow one class higher that may go first."""
        return AGEING_S * list(Priority).index(self)


def fair_start(clock: float, own_end: float | None) -> float:
    """Where the turn of a new job begins: `own_end` is where its flow's last live job ends, if it has one."""
    return clock if own_end is None else max(clock, own_end)
