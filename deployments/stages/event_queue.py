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
STARTED_AFTER_S = 0.25
"""How long a call runs before it reports that it has started: one that is shorter only reports that it has finished."""


class EventQueue:
    """Passes on `Ending` at once, `Started` after a moment, and of the progress only the latest, after a while.

    So its length does not depend on how fast the steps are. Nothing is passed on that the end of the call makes old
    news: not the start of a call that has ended, and no progress after `Ending`. Create it and iterate over it in the
    event loop; the iteration ends when the queue is closed.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        progress_every_s: float = PROGRESS_EVERY_S,
        started_after_s: float = STARTED_AFTER_S,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._clock = clock
        self._progress_every_s = progress_every_s
        self._started_after_s = started_after_s
        self._at_once: deque[Started | Ending] = deque()
        self._started: Started | None = None
        self._progress: Progress | None = None
        self._quiet_until = -math.inf
        self._is_ending = False
        self._closed = False
        self._news = asyncio.Event()

    def put(self, event: Started | Progress | Ending) -> None:
        """Add an event, from any thread. A progress that waits is replaced."""
        self._loop.call_soon_threadsafe(self._receive, event)

    def close(self) -> None:
        """End the iteration after an `Ending` that was put before. To be called in the event loop."""
        self._loop.call_soon(self._end)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Started | Progress | Ending:
        while (event := self._due()) is None:
            if self._closed:
                raise StopAsyncIteration
            self._news.clear()
            waits = self._started is not None or self._progress is not None
            await until_set(self._news, self._quiet_until - self._clock() if waits else None)
        return event

    def _receive(self, event: Started | Progress | Ending) -> None:
        match event:
            case Started():
                self._started, self._quiet_until = event, self._clock() + self._started_after_s
            case Progress() if not self._is_ending:
                self._progress = event
            case Ending():
                self._at_once.extend(each for each in (self._started, event) if each is not None)
                self._started, self._progress, self._is_ending = None, None, True
        self._news.set()

    def _end(self) -> None:
        self._closed = True
        self._news.set()

    def _due(self) -> Started | Progress | Ending | None:
        """Take the event that is to be passed on now, if there is one."""
        if self._at_once:
            return self._at_once.popleft()
        now = self._clock()
        if self._closed or now < self._quiet_until:
            return None
        if self._started is not None:
            started, self._started = self._started, None
            return started
        if self._progress is not None:
            self._quiet_until = now + self._progress_every_s
        progress, self._progress = self._progress, None
        return progress
