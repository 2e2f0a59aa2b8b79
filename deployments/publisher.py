"""Stores a video's files in the artifact store, and does the work after the end of a job: webhooks and deletions."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Collection
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from typing import Any

from ray import serve
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from deployments import metrics
from deployments.background import forever
from deployments.configuration.settings import Settings, data_dir, database_url, webhook_secret
from deployments.housekeeping.sweeper import Sweeper
from deployments.housekeeping.webhook_sender import WebhookSender
from deployments.outbound import Outbound
from deployments.stages.messages import Finished, Started, Stopped
from deployments.stages.worker import ended, payload_bytes, this_replica
from jobs.database import UNREACHABLE, open_database
from jobs.leases import Leases
from jobs.record import Job
from jobs.webhooks import Outbox
from pipelines.output import RenderedVideo
from pipelines.version import VERSION
from storage.artifacts import KEEP, ObjectMetadata, keep_class
from storage.errors import StorageUnavailable
from storage.keys import download_name, metadata_key, spritesheet_key, thumbnail_key, video_key
from storage.store import delete_or_leave, open_store

log = logging.getLogger("ray.serve")

SEND_EVERY_S = 1.0
AT_ONCE = 16
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 30.0


@serve.deployment(name="Publisher", max_ongoing_requests=4 * AT_ONCE, graceful_shutdown_timeout_s=300)
class Publisher:
    """Writes files under keys that depend on the job alone, so that a repeated publish overwrites its own files."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = open_store(settings.bucket, data_dir())
        # Separate threads: calls that wait for the artifact store must not delay webhooks and the job store.
        self.writers = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="writer")
        self.deleters = ThreadPoolExecutor(4, thread_name_prefix="deleter")
        database = open_database(database_url())
        self.leases = Leases(database)
        self.sweeper = Sweeper(database, self.store)
        works = [self._sweep]
        if (secret := webhook_secret()) is not None:
            self.sender = WebhookSender(Outbox(database), Outbound(settings.outbound_allow), secret)
            works.append(self._send)
        self.loops = [asyncio.get_running_loop().create_task(forever(work)) for work in works]

    def check_health(self) -> None:
        if any(loop.done() for loop in self.loops):
            raise RuntimeError("a loop of the publisher has ended")

    async def run(self, job: Job, rendered: RenderedVideo) -> AsyncIterator[Any]:
        """Store all files of a video.

        While the store cannot be used, the video waits here, however long: it is neither lost nor rendered again. A
        write that has begun is not interrupted; a wait is. If the conductor dies, the wait ends when another conductor
        has the job.
        """
        yield Started(this_replica())
        started = time.perf_counter()
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(OSError),
            wait=wait_random_exponential(FIRST_WAIT_S, max=LONGEST_WAIT_S),
            before_sleep=lambda state: _put_off(job, state),
        ):
            with attempt:
                if attempt.retry_state.attempt_number > 1:
                    await asyncio.to_thread(self._require_lease, job)
                writing = asyncio.get_running_loop().run_in_executor(self.writers, self._publish, job, rendered)
                try:
                    await asyncio.shield(writing)
                finally:
                    await ended(writing)
        yield Finished(time.perf_counter() - started, payload_bytes(rendered), {})

    async def discard(self, prefixes: Collection[str]) -> None:
        """Delete the remaining files of ended jobs, given their prefixes."""
        in_thread = partial(asyncio.get_running_loop().run_in_executor, self.deleters)
        await asyncio.gather(*(in_thread(delete_or_leave, self.store, prefix) for prefix in prefixes))

    async def _sweep(self) -> None:
        try:
            await asyncio.to_thread(self.sweeper.sweep)
        except StorageUnavailable as error:
            log.warning("what is due to go stays for now: %s", error)
        await asyncio.sleep(self.settings.sweep_every_s)

    async def _send(self) -> None:
        await self.sender.begin()
        await self.sender.one_ended(SEND_EVERY_S)

    def _require_lease(self, job: Job) -> None:
        """Raise Stopped when the job was deleted or canceled, or another conductor has it and will publish it."""
        assert job.lease_token is not None
        try:
            expires_at = self.leases.expiry(job.lease_token)
        except UNREACHABLE:
            return  # no other conductor can have claimed it
        if expires_at is None:
            raise Stopped

    def _publish(self, job: Job, rendered: RenderedVideo) -> None:
        files = {
            metadata_key(job): json.dumps(_metadata(job), indent=1, sort_keys=True).encode(),
            thumbnail_key(job): rendered.thumbnail,
            spritesheet_key(job): rendered.spritesheet,
            video_key(job): rendered.mp4,  # last: if the video exists, the other files do too
        }
        for key, data in files.items():
            if data is not None:
                self.store.put(key, data, ObjectMetadata(download_name(key), _tags(job)))


def _put_off(job: Job, state: RetryCallState) -> None:
    """Log and count that a video waits for the artifact store."""
    assert state.outcome is not None
    wait_s = state.next_action.sleep if state.next_action else 0.0
    log.warning("%s is tried again in %.1f s: %s", job.id, wait_s, state.outcome.exception())
    metrics.publish_retries_total().inc(1, {"model": job.model})


def _tags(job: Job) -> dict[str, str]:
    """The object tags by which a bucket's own rules and bills can tell objects apart."""
    tags = {"job": job.id, "model": job.model}
    if job.expires_in_s is not None:
        tags["expires"] = datetime.fromtimestamp(time.time() + job.expires_in_s, UTC).isoformat(timespec="seconds")
        if (keep := keep_class(job.expires_in_s)) is not None:
            tags[KEEP] = keep
    return tags


def _metadata(job: Job) -> dict[str, Any]:
    """The metadata that an archive of videos needs about one, so that it need not ask the job store."""
    return {
        "kinoray": VERSION, "id": job.id, "model": job.model, "prompt": job.prompt, "parameters": job.parameters,
        "created_at": job.created_at, "remixed_from": job.remixed_from, "user": job.user,
    }  # fmt: skip
