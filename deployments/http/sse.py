"""Sends a job's changes as server-sent events.

Each event's id is the job's version, so any replica can continue a stream after it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event

from deployments.http.overload import HeldOpen, Lane
from deployments.http.watcher import Watcher
from jobs.lifecycle import ENDED, Status, event_of
from jobs.record import Job
from jobs.store import JobStore
from pipelines.errors import InvalidRequest

KEEPALIVE_S = 15.0


class EventStream:
    """The events of jobs, for any number of clients of one API replica."""

    def __init__(self, store: JobStore, watcher: Watcher, lane: Lane, held_open: HeldOpen) -> None:
        self._store = store
        self._watcher = watcher
        self._lane = lane
        self._held_open = held_open

    async def of(self, job: Job, seen: int | None, snapshot: Callable[[Job], Any]) -> AsyncIterator[bytes]:
        """Yield a snapshot, then every change until the job ends; with `seen`, only the events after that one."""
        with self._held_open.one():  # from here, as a stream that nobody begins to read is never closed
            async with aclosing(self._events(job, seen, snapshot)) as events:
                async for event in events:
                    yield event

    async def _events(self, job: Job, seen: int | None, snapshot: Callable[[Job], Any]) -> AsyncGenerator[bytes]:
        if seen is None or seen > job.version:  # an id that was never sent is ignored
            kind = event_of(job.status, job.error_code)
            yield _event(kind, job.version, await self._lane.finish(snapshot, job))
            seen, ended = job.version, job.ended
        else:
            ended = False
        while not ended:
            for event in await self._lane.finish(self._store.events, job.id, seen):
                yield _event(event.kind, event.version, {"id": job.id, **event.data})
                seen = event.version
                ended = Status(event.data["status"]) in ENDED
            if ended:
                return
            try:
                async with asyncio.timeout(KEEPALIVE_S):
                    version = await self._watcher.changed(job.id, seen)
            except TimeoutError:
                yield KEEPALIVE_COMMENT
                continue
            if version is None:
                yield _event("deleted", seen + 1, {"id": job.id})
                return


def last_seen(header: str | None) -> int | None:
    """The number in `Last-Event-ID`; None without the header.

    Raises:
        InvalidRequest: the value is not an id that this service could have sent.
    """
    if header is None or header == "":
        return None
    if not (header.isascii() and header.isdigit() and len(header) < 10):
        raise InvalidRequest("Last-Event-ID must be the id of an event of this stream", param="Last-Event-ID")
    return int(header)


def _event(kind: str, version: int, data: Any) -> bytes:
    return format_sse_event(event=f"video.{kind}", id=str(version), data_str=json.dumps(data))
