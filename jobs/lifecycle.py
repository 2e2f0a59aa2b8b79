"""The life of a job, as one table. Store, conductor, API and metrics derive from it; nothing else compares states.

    queued ──claim──▶ in_progress ──complete──▶ completed
     │ ▲                 │    │
     │ └─retry, release──┘    └──fail, cancel──▶ failed
     └──────────────cancel────────────────────────▲

On the wire these are the four states of the OpenAI Videos API. A job whose every attempt ended in a fault is
dead-lettered: failed, with its error kept, until its operator drives it again, which begins a new life of it.
"""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"


class Leg(StrEnum):
    """The part of the relay that a job is in."""

    ENCODE = "encode"
    DENOISE = "denoise"
    DECODE = "decode"
    PUBLISH = "publish"


NEXT: dict[Status, frozenset[Status]] = {
    Status.QUEUED: frozenset({Status.IN_PROGRESS, Status.FAILED}),
    Status.IN_PROGRESS: frozenset({Status.QUEUED, Status.COMPLETED, Status.FAILED}),
    Status.COMPLETED: frozenset(),
    Status.FAILED: frozenset(),
}
ENDED = frozenset(status for status, after in NEXT.items() if not after)

# What a leg covers of a job's progress, in percent. Only a completed job is at 100.
PROGRESS: dict[Leg, tuple[int, int]] = {
    Leg.ENCODE: (1, 5),
    Leg.DENOISE: (5, 85),
    Leg.DECODE: (85, 97),
    Leg.PUBLISH: (97, 99),
}


def progress_at(leg: Leg, done: float = 0.0) -> int:
    """A job's percent when `done` (0 to 1) of a leg is finished."""
    low, high = PROGRESS[leg]
    return low + int((high - low) * min(max(done, 0.0), 1.0))


def before(status: Status) -> frozenset[Status]:
    """The states from which `status` can be reached."""
    return frozenset(source for source, after in NEXT.items() if status in after)
