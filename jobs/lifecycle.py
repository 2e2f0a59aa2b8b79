"""The life of a job, as one table. The store, conductor, API and metrics use it; no other code compares states.

    queued ──claim──▶ in_progress ──complete──▶ completed
     │ ▲                 │    │
     │ └─retry, release──┘    └──fail, cancel──▶ failed
     └──────────────cancel────────────────────────▲

On the wire these are the four states of the OpenAI Videos API. A job whose every attempt ended in a fault is
dead-lettered: it stays failed, with its error, until an operator queues it again as if it were new.
"""

from __future__ import annotations

from enum import StrEnum

from pipelines.stages import Stage


class Status(StrEnum):
    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"


NEXT: dict[Status, frozenset[Status]] = {
    Status.QUEUED: frozenset({Status.IN_PROGRESS, Status.FAILED}),
    Status.IN_PROGRESS: frozenset({Status.QUEUED, Status.COMPLETED, Status.FAILED}),
    Status.COMPLETED: frozenset(),
    Status.FAILED: frozenset(),
}
ENDED = frozenset(status for status, after in NEXT.items() if not after)

CANCELED = "canceled"
"""The error code of a job that its client canceled. Its state on the wire is `failed`, because OpenAI's clients know no
other."""

SERVER_ERROR = "server_error"
"""The error code of a dead-lettered job: every attempt ended in a fault. An operator may queue it again."""

AHEAD_OF_DENOISE = (Stage.TEXT_ENCODE, Stage.IMAGE_ENCODE, Stage.DENOISE)
"""The stages in which a job has a denoiser or will soon need one."""


def before(status: Status) -> frozenset[Status]:
    """The states from which `status` can be reached."""
    return frozenset(source for source, after in NEXT.items() if status in after)


def percent(share: float) -> int:
    """A job's progress when `share` (0 to 1) of it is done. The result is 1 to 99: only a completed job is at 100."""
    return min(max(int(100 * share), 1), 99)


def event_of(status: Status, error_code: str | None) -> str:
    """The event stream's name of a change that led to this state."""
    if status is Status.FAILED and error_code == CANCELED:
        return CANCELED
    return "progress" if status is Status.IN_PROGRESS else status.value
