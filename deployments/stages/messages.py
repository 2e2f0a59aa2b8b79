"""The messages between a conductor and the computing replicas, beside tensors and files. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jobs.record import Checkpoint


@dataclass(frozen=True, slots=True)
class Started:
    """A replica has begun to work on the call."""

    replica: str


@dataclass(frozen=True, slots=True)
class Progress:
    """The number of steps done so far. At most one is sent per second; the last one is always sent."""

    step: int
    num_steps: int


@dataclass(frozen=True, slots=True)
class Ending:
    """The call is about to finish, so the next call may be sent."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The stage is done; the next item of the stream is its value, if it has one."""

    seconds: float
    nbytes: int
    result_metadata: dict[str, Any]


class Stopped(Exception):
    """Raised when the caller has cancelled the call or no longer holds the job; the thread unwinds at its next step."""


Event = Started | Progress | Ending | Finished


@dataclass(frozen=True, slots=True)
class DenoiseRequest:
    """What a conductor sends to a denoiser beside the inputs: the job, its lease and its checkpoint."""

    job_id: str
    model: str
    token: str  # of the lease
    denoiser: str  # the replica that is to run it
    checkpoint: Checkpoint | None  # of an earlier replica or attempt


@dataclass(frozen=True, slots=True)
class CheckpointRef:
    """The key of latents that the stage reads from the artifact store."""

    key: str
