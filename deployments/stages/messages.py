"""What passes between a conductor and the replicas that compute, beside tensors and files. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jobs.record import Checkpoint


@dataclass(frozen=True, slots=True)
class Started:
    """A replica works on the call."""

    replica: str


@dataclass(frozen=True, slots=True)
class Progress:
    """Steps done so far. At most one a second is sent; the last one always is."""

    step: int
    num_steps: int


@dataclass(frozen=True, slots=True)
class Ending:
    """So little is left that the next call may be sent."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The stage is done; the next item of the stream is its value, if it has one."""

    seconds: float
    nbytes: int
    result_metadata: dict[str, Any]


class Stopped(Exception):
    """The caller cancelled the call, or holds the job no more; the worker thread unwinds at its next step."""


Event = Started | Progress | Ending | Finished


@dataclass(frozen=True, slots=True)
class DenoiseRequest:
    """What a conductor hands to a denoiser beside the work itself: whose job it is, and where it stands."""

    job_id: str
    model: str
    token: str  # of the lease
    denoiser: str  # the replica that is to run it
    checkpoint: Checkpoint | None  # of an earlier replica or attempt


@dataclass(frozen=True, slots=True)
class CheckpointRef:
    """Latents that are in the artifact store, to be read there."""

    key: str
