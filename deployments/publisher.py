"""Stores a video's files in the artifact store, and does the work after the end of a job: webhooks and deletions."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Collection
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from ray import serve

from deployments import metrics
from deployments.background import ended, forever
from deployments.configuration.settings import Settings, data_dir, database_url, webhook_secret
from deployments.housekeeping.sweeper import Sweeper
from deployments.housekeeping.webhook_sender import WebhookSender
from deployments.outbound import Outbound
from deployments.stages.event_queue import STARTED_AFTER_S
from deployments.stages.messages import Finished, PublishRequest, Started, packed
from deployments.stages.publication import Publication
from deployments.stages.worker import payload_bytes, this_replica
from jobs.database import open_database
from jobs.leases import Leases
from jobs.retention import Retention
from jobs.stored import ResultMetadata
from jobs.webhooks import Outbox
from pipelines.output import RenderedVideo
from storage.errors import StorageUnavailable
from storage.store import delete_or_leave, open_store, refuse_foreign

log = logging.getLogger("ray.serve")

SEND_EVERY_S = 1.0
AT_ONCE = 16


@serve.deployment(name="Publisher", max_ongoing_requests=4 * AT_ONCE, graceful_shutdown_timeout_s=300)
class Publisher:
    """Runs publications in threads of their own, deletes files, and has loops for webhooks and what is due to go."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = open_store(settings.bucket, data_dir())
        # Separate threads: calls that wait for the artifact store must not delay webhooks and the job store.
        self.writers = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="writer")
        self.deleters = ThreadPoolExecutor(4, thread_name_prefix="deleter")
        database = open_database(database_url())
        self.leases = Leases(database)
        refuse_foreign(settings.bucket, data_dir(), Retention(database).store_id())
        self.sweeper = Sweeper(database, self.store)
        works = [self._sweep]
        if (secret := webhook_secret()) is not None:
            self.sender = WebhookSender(Outbox(database), Outbound(settings.outbound_allow), secret)
            works.append(self._send)
        self.loops = [asyncio.get_running_loop().create_task(forever(work)) for work in works]

    def check_health(self) -> None:
        if any(loop.done() for loop in self.loops):
            raise RuntimeError("a loop of the publisher has ended")
        if self.sweeper.foreign is not None:
            raise self.sweeper.foreign  # Serve restarts the replica, which then does not start

    async def run(self, request: PublishRequest, rendered: RenderedVideo) -> AsyncIterator[bytes]:
        """Store all files of a video, however long the store is away.

        If the conductor dies meanwhile, the wait ends when another conductor has the job.
        """
        started = time.perf_counter()
        publication = Publication(
            request.job,
            rendered,
            self.store,
            self.leases,
            self.writers,
            on_retry=partial(_count_retry, request.job.model),
        )
        running = asyncio.ensure_future(publication.run())
        try:
            await asyncio.wait([running], timeout=STARTED_AFTER_S)
            if not running.done():
                yield packed(Started(this_replica()))
            await running
        finally:
            running.cancel()
            await ended(running)
        yield packed(Finished(time.perf_counter() - started, payload_bytes(rendered), ResultMetadata()))

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


def _count_retry(model: str) -> None:
    metrics.publish_retries_total().inc(1, {"model": model})
