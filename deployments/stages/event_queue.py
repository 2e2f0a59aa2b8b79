"""The small events of one call on their way from the worker thread to the replica's event loop."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from typing import Self

from deployments.background import until_set
from deployments.stages.messages import Ending, Progress, Started

PROGRESS_EVERY_S = 1.0
"""The least time between two reports of progress. Every event costs the conductor a call and a write."""


class EventQueue:
    """Passes on `Started` and `Ending` at once, and of the progress only the latest, after a while or at the end.

    So its length does not depend on how fast the steps are. Create it and iterate over it in the event loop; the
    iteration ends when the queue is closed and empty.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, progress_every_s: float = PROGRESS_EVERY_S) -> None:
        self._loop = asyncio.get_running_loop()
        self._clock = clock
        self._progress_every_s = progress_every_s
        self._at_once: deque[Started | Ending] = deque()
        self._progress: Progress | None = None
        self._quiet_until = -math.inf
        self._closed = False
        self._news = asyncio.Event()

    def put(self, event: Started | Progress | Ending) -> None:
        """Add an event, from any thread. A waiting progress is replaced."""
        self._loop.call_soon_threadsafe(self._receive, event)

    def close(self) -> None:
        """End the iteration after what was put before. To be called in the event loop."""
        self._loop.call_soon(self._end)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Started | Progress | Ending:
        while (event := self._due()) is None:
            if self._closed:
                raise StopAsyncIteration
            self._news.clear()
            quiet_s = None if self._progress is None else self._quiet_until - self._clock()
            await until_set(self._news, quiet_s)
        return event

    def _receive(self, event: Started | Progress | Ending) -> None:
        if isinstance(event, Progress):
            self._progress = event
        else:
            self._at_once.append(event)
        self._news.set()

    def _end(self) -> None:
        self._closed = True
        self._news.set()

    def _due(self) -> Started | Progress | Ending | None:
        """Take the event that is to be passed on now, if there is one."""
        if self._at_once:
            return self._at_once.popleft()
        now = self._clock()
        if self._progress is None or (now < self._quiet_until and not self._closed):
            return None
        self._quiet_until = now + self._progress_every_s
        progress, self._progress = self._progress, None
        return progress
