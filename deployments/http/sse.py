"""Sends a job's changes as server-sent events.

Each event's id is the job's version, so any replica can continue a stream after it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import ExitStack
from typing import Any

from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from starlette.types import Receive, Scope, Send

from deployments.http.overload import HeldOpen, Lane
from deployments.http.watcher import Watcher
from jobs.lifecycle import ENDED, Status, event_of
from jobs.record import Job
from jobs.store import JobStore
from pipelines.errors import InvalidRequest

KEEPALIVE_S = 15.0
HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


class EventStream:
    """The events of jobs, for any number of clients of one API replica."""

    def __init__(self, store: JobStore, watcher: Watcher, lane: Lane, held_open: HeldOpen) -> None:
        self._store = store
        self._watcher = watcher
        self._lane = lane
        self._held_open = held_open

    def of(self, job: Job, seen: int | None, snapshot: Callable[[Job], Any]) -> EventSourceResponse:
        """Answer with a snapshot, then every change until the job ends; with `seen`, only the events after that one.

        Raises:
            Overloaded: there are as many streams and waits as there may be.
        """
        place = ExitStack()
        place.enter_context(self._held_open.one())
        return _Held(self._events(job, seen, snapshot), place)

    def none(self) -> EventSourceResponse:
        """The answer without any event, for HEAD."""
        return EventSourceResponse((), headers=HEADERS)

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


class _Held(EventSourceResponse):
    """A stream that has its place from when it is made, before any other request can take it, until it is sent."""

    def __init__(self, events: AsyncIterator[bytes], place: ExitStack) -> None:
        super().__init__(events, headers=HEADERS)
        self._place = place

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._place:
            await super().__call__(scope, receive, send)


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
