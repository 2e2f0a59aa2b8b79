"""A denoiser's commits: what a retry or another replica goes on from, written under the job's lease."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any, TypeVar

from deployments import metrics
from deployments.leg import Stopped
from deployments.ticket import Committed, Ticket
from jobs.database import UNREACHABLE
from jobs.leases import Leases
from pipelines.errors import LatentsLost
from pipelines.serialization import from_bytes, to_bytes
from storage.errors import StorageUnavailable
from storage.keys import checkpoint_key
from storage.store import ArtifactStore

log = logging.getLogger("ray.serve")

T = TypeVar("T")


class Commits:
    """One denoise's checkpoints. Used from the leg's worker thread.

    A checkpoint is advice: whatever keeps one from being written costs a repetition of steps, never the job. So an
    outage of the store is logged and the render goes on. The denoiser commits by itself, so that the work of one whose
    conductor has died counts until its lease runs out, and it stops then.
    """

    def __init__(self, leases: Leases, artifacts: ArtifactStore, ticket: Ticket, every_s: float) -> None:
        self._leases = leases
        self._artifacts = artifacts
        self._ticket = ticket
        self._every_s = every_s
        self._last = ticket.checkpoint
        self._spent_s = float(ticket.checkpoint["seconds"]) if ticket.checkpoint else 0.0
        self._began = self._saved_at = time.monotonic()
        self._expires_at = 0.0

    def resume(self, kind: type[T]) -> T | None:
        """The state to go on from; None to begin, also where a checkpoint cannot be read.

        Raises:
            StorageUnavailable: it can be read once the store is back.
        """
        if self._last is None:
            return None
        try:
            return read_committed(self._artifacts, Committed(self._last["key"]), kind)
        except LatentsLost as lost:
            log.warning("%s begins anew: %s", self._ticket.job_id, lost.message)
            self._spent_s = 0.0
            return None

    def due(self) -> bool:
        """Whether so much work is uncommitted that it is time."""
        return time.monotonic() - self._saved_at >= self._every_s

    def require_lease(self) -> None:
        """Raise Stopped once nobody renews the job's lease. The store is asked only when what it said has run out."""
        if time.time() < self._expires_at:
            return
        try:
            expires_at = self._leases.expiry(self._ticket.token)
        except UNREACHABLE as error:
            log.warning("whether %s is still leased cannot be seen: %s", self._ticket.job_id, type(error).__name__)
            return
        if expires_at is None or expires_at < time.time():
            raise Stopped
        self._expires_at = expires_at

    def save(self, value: Any, step: int, *, final: bool = False, facts: Mapping[str, Any] | None = None) -> None:
        """Store a state or the final latents, and record them if the lease is still the ticket's.

        `facts` are those of the leg, for the attempt that goes on from its end without it.
        """
        started = time.monotonic()
        key = checkpoint_key(self._ticket.job_id, step, self._ticket.token)
        spent = self._spent_s + started - self._began
        checkpoint: dict[str, Any] = {
            "key": key,
            "step": step,
            "final": final,
            "seconds": round(spent, 4),
            "facts": dict(facts or {}),
        }
        try:
            self._artifacts.put(key, to_bytes(value))
            kept = self._leases.commit(self._ticket.token, checkpoint)
            outdated, self._last = (self._last, checkpoint) if kept else (checkpoint, self._last)
            if outdated is not None and (self._last is None or outdated["key"] != self._last["key"]):
                self._artifacts.delete(outdated["key"])
        except (*UNREACHABLE, OSError) as error:
            log.warning("the checkpoint of %s could not be stored: %s", self._ticket.job_id, type(error).__name__)
        self._saved_at = time.monotonic()
        metrics.checkpoint_seconds().observe(self._saved_at - started, {"model": self._ticket.model})


def read_committed(artifacts: ArtifactStore, committed: Committed, kind: type[T]) -> T:
    """Latents from the store: final ones, or a state to go on from.

    Raises:
        LatentsLost: they cannot be read; they have to be made again.
        StorageUnavailable: they can be read once the store is back.
    """
    try:
        return from_bytes(kind, artifacts.get(committed.key))
    except StorageUnavailable:
        raise
    except (OSError, ValueError) as error:
        raise LatentsLost(f"committed latents cannot be read: {type(error).__name__}") from error
