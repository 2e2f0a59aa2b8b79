"""What a conductor hands to a leg beside the work itself. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a conductor hands to a denoiser beside the work itself: whose job it is, and where it stands."""

    job_id: str
    model: str
    token: str  # of the lease
    denoiser: str  # the replica that is to run it
    checkpoint: dict[str, Any] | None  # of an earlier replica or attempt, as `Commits.save` wrote it


@dataclass(frozen=True, slots=True)
class Committed:
    """Latents that are in the artifact store, to be read there."""

    key: str
