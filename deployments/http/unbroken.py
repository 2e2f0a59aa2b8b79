"""Finishes work even if the request that began it is canceled, which happens when its client leaves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

log = logging.getLogger("ray.serve")


class Unbroken:
    """The work of one API replica that must not stop in the middle. Used from one event loop."""

    def __init__(self) -> None:
        # The event loop itself holds its tasks only weakly.
        self._tasks: set[asyncio.Task[Any]] = set()

    def begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start the work. Whoever awaits the task must shield it; nobody needs to."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._end)
        return task

    def detach(self, work: Coroutine[Any, Any, T], what: str) -> asyncio.Task[T]:
        """Start work whose outcome nobody asks for. If it fails, the log says that `what` was not done."""
        task = self.begin(work)
        task.add_done_callback(lambda task: _report(task, what))
        return task

    def _end(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever awaits it has it; if nobody does, asyncio must not report it as a bug


def _report(task: asyncio.Task[Any], what: str) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("%s was not done", what, exc_info=error)
