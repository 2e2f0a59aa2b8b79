"""The way of one video's files into the artifact store, which may be away for a while."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from deployments.background import ended
from deployments.stages.messages import Stopped
from jobs.database import UNREACHABLE
from jobs.record import Job
from pipelines.output import RenderedVideo
from pipelines.version import VERSION
from storage.artifacts import KEEP, ObjectMetadata, keep_class
from storage.keys import download_name, metadata_key, spritesheet_key, thumbnail_key, video_key

log = logging.getLogger("ray.serve")

FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 30.0


class Store(Protocol):
    """Puts a file; raises OSError while the store cannot be used. Blocks."""

    def put(self, key: str, data: bytes, about: ObjectMetadata, /) -> None: ...


class LeaseExpiry(Protocol):
    """Knows in how many seconds a lease expires; None when it is no longer held. Blocks."""

    def remaining_s(self, token: str, /) -> float | None: ...


class File(NamedTuple):
    """A file of a video, as the artifact store takes it."""

    key: str
    data: bytes
    about: ObjectMetadata


class Publication:
    """Stores the files of one video, under keys that depend on the job alone: a repetition overwrites its own files."""

    def __init__(
        self,
        job: Job,
        rendered: RenderedVideo,
        store: Store,
        leases: LeaseExpiry,
        writers: Executor,
        *,
        on_retry: Callable[[], None] = lambda: None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """
        Args:
            job: it has a lease.
            writers: where files are written.
            on_retry: called whenever the video has to wait for the store.
            sleep: waits for so many seconds before the next try.
        """
        self._job = job
        self._rendered = rendered
        self._store = store
        self._leases = leases
        self._writers = writers
        self._on_retry = on_retry
        self._sleep = sleep

    async def run(self) -> None:
        """Store all files.

        While the store cannot be used, the video waits here, however long: it is neither lost nor rendered again. A
        write that has begun is not interrupted; a wait is.

        Raises:
            Stopped: after a wait, the job was deleted or canceled, or another conductor has it and will publish it.
        """
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(OSError),
            wait=wait_random_exponential(FIRST_WAIT_S, max=LONGEST_WAIT_S),
            before_sleep=self._put_off,
            sleep=self._sleep,
        ):
            with attempt:
                if attempt.retry_state.attempt_number > 1:
                    await asyncio.to_thread(self._require_lease)
                writing = asyncio.get_running_loop().run_in_executor(self._writers, self._write)
                try:
                    await asyncio.shield(writing)
                finally:
                    await ended(writing)

    def _require_lease(self) -> None:
        assert self._job.lease_token is not None
        try:
            remaining_s = self._leases.remaining_s(self._job.lease_token)
        except UNREACHABLE:
            return  # no other conductor can have claimed it
        if remaining_s is None:
            raise Stopped

    def _write(self) -> None:
        for file in files_of(self._job, self._rendered, time.time()):
            self._store.put(*file)

    def _put_off(self, state: RetryCallState) -> None:
        """Log and report that the video waits for the store."""
        assert state.outcome is not None
        wait_s = state.next_action.sleep if state.next_action else 0.0
        log.warning("%s is tried again in %.1f s: %s", self._job.id, wait_s, state.outcome.exception())
        self._on_retry()


def files_of(job: Job, rendered: RenderedVideo, now: float) -> list[File]:
    """The files of a video in the order in which to write them; `now` is in seconds since the epoch."""
    contents = {
        metadata_key(job): json.dumps(_metadata(job), indent=1, sort_keys=True).encode(),
        thumbnail_key(job): rendered.thumbnail,
        spritesheet_key(job): rendered.spritesheet,
        video_key(job): rendered.mp4,  # last: if the video exists, the other files do too
    }
    tags = _tags(job, now)
    return [
        File(key, data, ObjectMetadata(download_name(key), tags)) for key, data in contents.items() if data is not None
    ]


def _tags(job: Job, now: float) -> dict[str, str]:
    """The object tags by which a bucket's own rules and bills can tell objects apart."""
    tags = {"job": job.id, "model": job.model}
    if job.expires_in_s is not None:
        tags["expires"] = datetime.fromtimestamp(now + job.expires_in_s, UTC).isoformat(timespec="seconds")
        if (keep := keep_class(job.expires_in_s)) is not None:
            tags[KEEP] = keep
    return tags


def _metadata(job: Job) -> dict[str, Any]:
    """The metadata that an archive of videos needs about one, so that it need not ask the job store."""
    return {
        "kinoray": VERSION, "id": job.id, "model": job.model, "prompt": job.prompt, "parameters": job.parameters,
        "created_at": job.created_at, "remixed_from": job.remixed_from, "user": job.user,
    }  # fmt: skip
