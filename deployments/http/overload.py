"""Refuses at once what is too much, instead of letting it wait, and keeps one kind of calls out of another's way.

Every kind of calls is a lane with threads of its own: creates, reads, cancels and deletes. So a flood of creates delays
no cancel, and no lane waits for a connection to the job store that another one holds: all lanes together have no more
threads than an engine has connections. A request that finds its lane full is refused before its body is read, with the
time after which to try again.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from deployments.http.errors import Overloaded

T = TypeVar("T")

RETRY_AFTER_S = (1.0, 3.0)
"""Between these times a refused client tries again: those that were refused together do not all return together."""


class Lane:
    """Threads for one kind of blocking work. Used from one event loop."""

    def __init__(self, name: str, threads: int, most: int | None = None) -> None:
        """
        Args:
            most: how much work may be in its threads or wait for one; more is refused. None: something else bounds it.
        """
        self._name, self._most = name, most
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._lock = threading.Lock()
        self._inside = 0

    async def run(self, work: Callable[..., T], *inputs: Any) -> T:
        """Do the work in one of the threads.

        Raises:
            Overloaded: at once; nothing was done.
        """
        if self._most is not None and self._inside >= self._most:
            raise overloaded(self._name)
        return await self.finish(work, *inputs)

    async def finish(self, work: Callable[..., T], *inputs: Any) -> T:
        """Do work that follows from a request that was let in already: it is not refused."""
        with self._lock:
            self._inside += 1
        future = self._threads.submit(work, *inputs)
        future.add_done_callback(self._leave)  # once the thread is free, even if the client has left before
        return await asyncio.wrap_future(future)

    def _leave(self, _: Future[Any]) -> None:
        with self._lock:
            self._inside -= 1


class HeldOpen:
    """Bounds the answers that one replica holds open while nothing is to be done: event streams and waits."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open = 0

    @property
    def full(self) -> bool:
        return self._open >= self._most

    @contextmanager
    def one(self) -> Iterator[None]:
        """Count one for as long as it is open. Raises Overloaded if no more can be held open."""
        if self.full:
            raise overloaded("held open")
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1


def overloaded(what: str) -> Overloaded:
    """The error of a request that was refused since there are too many of its kind."""
    seconds = random.uniform(*RETRY_AFTER_S)
    return Overloaded(f"{WHY[what]}; nothing was done; send it again in {seconds:.0f} s", retry_after_s=seconds)


WHY = {
    "creates": "the service is accepting as many requests as it can at once",
    "reads": "the service is answering as many reads as it can at once",
    "contents": "the service is looking for as many files as it can at once",
    "deletes": "the service is deleting as many files as it can at once",
    "changes": "the service is ending as many videos as it can at once",
    "held open": "the service holds as many event streams and waiting requests open as it can; poll instead",
}
"""By lane, or what else is full."""
