"""The messages between a conductor and the computing replicas, beside tensors and files. No torch."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass

from jobs.record import Job
from jobs.stored import Checkpoint, ResultMetadata
from pipelines.card import Parameters
from pipelines.output import Output


@dataclass(frozen=True, slots=True)
class Started:
    """A replica has begun to work on the call. A short call ends without this."""

    replica: str


@dataclass(frozen=True, slots=True)
class Progress:
    """The number of steps done so far. At most one is sent per second."""

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
    result_metadata: ResultMetadata


class Stopped(Exception):
    """Raised when the caller has cancelled the call or no longer holds the job; the thread unwinds at its next step."""


Event = Started | Progress | Ending | Finished


def packed(event: Event) -> bytes:
    """An event as a stage sends it. Bytes reach a conductor as they are; of anything else Ray makes much more work."""
    return pickle.dumps(event)


def unpacked(sent: bytes) -> Event:
    """The event that a stage of this service has sent."""
    event: Event = pickle.loads(sent)
    return event


@dataclass(frozen=True, slots=True)
class TextRequest:
    """What a conductor sends to a text encoder."""

    prompt: str
    parameters: Parameters  # of the node


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """What a conductor sends to an image encoder; without a key, it sends a decoded frame beside this."""

    key: str | None  # of the job's image in the artifact store
    parameters: Parameters  # of the node


@dataclass(frozen=True, slots=True)
class DenoiseRequest:
    """What a conductor sends to a denoiser beside the conditioning: the node, the job's lease, the checkpoint."""

    job_id: str
    model: str
    node: str  # its name in the job's stage graph
    parameters: Parameters  # of the node
    needed: frozenset[str]  # the denoises whose latents the job needs once it needs no denoiser
    input: str  # the part of the checkpoint's fingerprint that the conductor knows
    token: str  # of the lease
    denoiser: str  # the replica that is to run it
    checkpoint: Checkpoint | None  # of an earlier replica or attempt
    revisions: Mapping[str, str]  # of the components that the stages before it have used


@dataclass(frozen=True, slots=True)
class DecodeRequest:
    """What a conductor sends to a decoder beside the latents."""

    model: str
    parameters: Parameters  # of the node
    video: Parameters  # of the finished video, whose shape the files have
    output: Output
    last_frame: bool  # return the last frame, for another node, instead of the files
    asks_for_one_color: bool  # whether the prompt does, so that such a video is nothing to report


@dataclass(frozen=True, slots=True)
class PublishRequest:
    """What a conductor sends to the publisher beside the files."""

    job: Job


Request = TextRequest | ImageRequest | DenoiseRequest | DecodeRequest | PublishRequest
"""What a call of a stage begins with. The outputs of other stages follow it, by reference."""


@dataclass(frozen=True, slots=True)
class CheckpointRef:
    """The key of latents that the stage reads from the artifact store."""

    key: str
