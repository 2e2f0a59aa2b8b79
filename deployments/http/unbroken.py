"""Finishes work even if the request that began it is canceled, which happens when its client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


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

    def _end(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever awaits it has it; if nobody does, asyncio must not report it as a bug
