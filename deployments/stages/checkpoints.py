"""A denoiser's checkpoints, written under the job's lease: a retry or another replica continues from them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Protocol, TypeVar

from deployments import metrics
from deployments.stages.messages import CheckpointRef, DenoiseRequest, Stopped
from jobs.database import UNREACHABLE
from jobs.stored import Checkpoint, Fingerprint, ResultMetadata
from pipelines.errors import LatentsLost
from pipelines.protocols import StageOutput
from pipelines.serialization import from_bytes, to_bytes
from storage.artifacts import ArtifactStore
from storage.errors import StorageUnavailable
from storage.keys import checkpoint_key

log = logging.getLogger("ray.serve")

T = TypeVar("T", bound=StageOutput)


class Writer:
    """Writes one checkpoint at a time in a thread of its own; the computing thread waits before it begins another."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._last: Future[None] | None = None

    @property
    def busy(self) -> bool:
        return self._last is not None and not self._last.done()

    def begin(self, write: Callable[..., None], *values: Any) -> None:
        """Wait for the previous write, then begin this one."""
        self.wait()
        self._last = self._thread.submit(write, *values)
        self._last.add_done_callback(_tell_of_faults)

    def wait(self) -> None:
        """Wait until the write that was begun has succeeded or failed."""
        if self._last is not None:
            wait([self._last])

    def close(self) -> None:
        self._thread.shutdown()


class CommitsLeases(Protocol):
    """What the commits need of `jobs.leases.Leases`."""

    def remaining_s(self, token: str) -> float | None: ...

    def commit(self, token: str, node: str, checkpoint: Checkpoint, needed: Collection[str]) -> bool: ...


class Commits:
    """The checkpoints of one denoise. Used from the stage's worker thread, which computes while `writer` writes.

    A checkpoint is optional: if one cannot be written, some steps may be repeated, but the job is never lost. So an
    outage of the store is logged and the render goes on. The denoiser commits by itself, so that its work still counts
    if the conductor has died, until the lease expires; then the denoiser stops.
    """

    def __init__(
        self,
        leases: CommitsLeases,
        artifacts: ArtifactStore,
        request: DenoiseRequest,
        fingerprint: Fingerprint,
        every_s: float,
        writer: Writer,
    ) -> None:
        """
        Args:
            fingerprint: what this denoise is made from; a checkpoint of anything else is made again.
            every_s: seconds between two checkpoints.
        """
        self._writer = writer
        self._leases = leases
        self._artifacts = artifacts
        self._request = request
        self._every_s = every_s
        self._fingerprint = fingerprint
        self._last = request.checkpoint
        self._spent_s = request.checkpoint.seconds if request.checkpoint else 0.0
        self._began = self._saved_at = time.monotonic()
        self._valid_until = 0.0  # by this process's monotonic clock

    def resume(self, kind: type[T]) -> T | None:
        """The state to continue from; None to begin anew, also if the checkpoint is of something else or unreadable.

        Raises:
            StorageUnavailable: the checkpoint can be read once the store is back.
        """
        if self._last is None:
            return None
        if differences := self._last.fingerprint.differences(self._fingerprint):
            self._begin_anew(f"its checkpoint was made with another {' and '.join(differences)}")
            return None
        try:
            return read_committed(self._artifacts, CheckpointRef(self._last.key), kind)
        except LatentsLost as lost:
            self._begin_anew(lost.message)
            return None

    def _begin_anew(self, reason: str) -> None:
        log.warning("%s begins anew: %s", self._request.job_id, reason)
        self._spent_s = 0.0

    def due(self) -> bool:
        """Whether `every_s` has passed since the last save, and the last checkpoint is written."""
        return time.monotonic() - self._saved_at >= self._every_s and not self._writer.busy

    def require_lease(self) -> None:
        """Raise Stopped once the job's lease has expired or is gone. Ask the store only after the last known expiry."""
        asked_at = time.monotonic()
        if asked_at < self._valid_until:
            return
        try:
            remaining_s = self._leases.remaining_s(self._request.token)
        except UNREACHABLE as error:
            log.warning("whether %s is still leased cannot be seen: %s", self._request.job_id, type(error).__name__)
            return
        if remaining_s is None or remaining_s < 0:
            raise Stopped
        self._valid_until = asked_at + remaining_s

    def save(self, state: StageOutput, step: int) -> None:
        """Begin to store a state, and to record it if the request's lease is still valid then."""
        self._save(state, step, final=False, result_metadata=ResultMetadata())

    def save_final(self, latents: StageOutput, step: int, result_metadata: ResultMetadata) -> None:
        """Begin to store the final latents. An attempt that continues from them does not run the stage again."""
        self._save(latents, step, final=True, result_metadata=result_metadata)

    def _save(self, value: StageOutput, step: int, *, final: bool, result_metadata: ResultMetadata) -> None:
        self._saved_at = time.monotonic()
        request = self._request
        checkpoint = Checkpoint(
            key=checkpoint_key(request.job_id, request.node, step, request.token),
            step=step,
            final=final,
            seconds=round(self._spent_s + self._saved_at - self._began, 4),
            fingerprint=self._fingerprint,
            result_metadata=result_metadata,
        )
        self._writer.begin(self._write, checkpoint, to_bytes(value))

    def _write(self, checkpoint: Checkpoint, data: bytes) -> None:
        started = time.monotonic()
        try:
            self._artifacts.put(checkpoint.key, data)
            kept = self._leases.commit(self._request.token, self._request.node, checkpoint, self._request.needed)
            outdated, self._last = (self._last, checkpoint) if kept else (checkpoint, self._last)
            if outdated is not None and (self._last is None or outdated.key != self._last.key):
                self._artifacts.delete(outdated.key)
        except (*UNREACHABLE, OSError) as error:
            log.warning("the checkpoint of %s could not be stored: %s", self._request.job_id, type(error).__name__)
        metrics.checkpoint_seconds().observe(time.monotonic() - started, {"model": self._request.model})


def _tell_of_faults(writing: Future[None]) -> None:
    if not writing.cancelled() and (error := writing.exception()) is not None:
        log.error("a checkpoint could not be written", exc_info=error)


def read_committed(artifacts: ArtifactStore, committed: CheckpointRef, kind: type[T]) -> T:
    """Read latents from the store: final ones, or a state to continue from.

    Raises:
        LatentsLost: the latents cannot be read and must be made again.
        StorageUnavailable: the latents can be read once the store is back.
    """
    try:
        return from_bytes(kind, artifacts.get(committed.key))
    except StorageUnavailable:
        raise
    except (OSError, ValueError) as error:
        raise LatentsLost(f"committed latents cannot be read: {type(error).__name__}") from error
