"""Bounds the requests with bodies that a replica has in hand: how many are read or worked on, in how many bytes.

To read a body takes as long as its sender likes, and to work on it takes CPU time. So the two are counted apart, and
bytes count as they arrive: senders that take their time keep nobody from being worked on, and small requests do not
wait for large ones. A request stays in hand until the last thread is done with it, also if its client has left before.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from starlette.datastructures import Headers

from deployments.http.overload import overloaded
from deployments.http.sizes import LARGE, declared_bytes

T = TypeVar("T")

READ_PER_WORKED_ON = 4
"""How many large bodies may be read at once for each request that may be worked on."""
OF_SLOW = 2
"""One in so many of those that are worked on may be slow, which requests with pictures are."""


class InHand:
    """The requests with bodies of one replica. Used on the event loop."""

    def __init__(self, most: int, most_bytes: int) -> None:
        """
        Args:
            most: how many may be worked on.
            most_bytes: of all together; one alone may have more.
        """
        self._most, self._most_bytes = most, most_bytes
        self.reading = self.working = self.slow = self.bytes = 0
        self._lock = threading.Lock()

    @contextmanager
    def enter(self, headers: Headers) -> Iterator[Place]:
        """Take a request in, whose body is to be read.

        Raises:
            Overloaded: there is no room for it now. Nothing of its body has been read.
        """
        declared = declared_bytes(headers)
        is_large = declared is None or declared >= LARGE
        with self._lock:
            if self.working >= self._most:
                raise overloaded("creates")
            if is_large:
                self._require_bytes(declared or 0)
                if self.reading >= self._most * READ_PER_WORKED_ON:
                    raise overloaded("creates")
            self.reading += is_large
        place = Place(self, is_large)
        token = _PLACE.set(place)
        try:
            yield place
        finally:
            _PLACE.reset(token)
            place.leave()

    def work(self, *, was_counted: bool, slow: bool) -> None:
        """Let a request be worked on, whose reading `was_counted`. Raises Overloaded."""
        with self._lock:
            if self.working >= self._most or (slow and self.slow >= max(self._most // OF_SLOW, 1)):
                raise overloaded("creates")
            self.reading -= was_counted
            self.working += 1
            self.slow += slow

    def reserve(self, nbytes: int, its_own: int) -> None:
        """Let a request that has `its_own` bytes have more, or less. Raises Overloaded."""
        with self._lock:
            if nbytes > 0 and self.bytes > its_own:
                self._require_bytes(nbytes)
            self.bytes += nbytes

    def release(self, nbytes: int, *, reading: bool, working: bool, slow: bool) -> None:
        """Let a request go."""
        with self._lock:
            self.bytes -= nbytes
            self.reading -= reading
            self.working -= working
            self.slow -= slow

    def _require_bytes(self, nbytes: int) -> None:
        if self.bytes and self.bytes + nbytes > self._most_bytes:
            raise overloaded("creates")


class Place:
    """One request's part of what is in hand."""

    def __init__(self, in_hand: InHand, is_large: bool) -> None:
        self._in_hand = in_hand
        self._is_large = is_large
        self._is_read = self._is_slow = False
        self._bytes = 0
        self._workers = 1  # the threads that work on it, and the request itself
        self._lock = threading.Lock()

    def read(self, *, slow: bool = False) -> None:
        """Report that the body is here and that the work begins, which is slow with a picture. Raises Overloaded."""
        self._in_hand.work(was_counted=self._is_large, slow=slow)
        self._is_read, self._is_slow = True, slow

    def reserve(self, nbytes: int) -> None:
        """Report that the request holds so many bytes more, or less. Raises Overloaded."""
        self._in_hand.reserve(nbytes, self._bytes)
        self._bytes += nbytes

    def follow(self, work: Future[Any]) -> None:
        """Stay taken until some work is done."""
        with self._lock:
            if self._workers == 0:
                return  # it counts no more
            self._workers += 1
        work.add_done_callback(lambda _: self.leave())

    def leave(self) -> None:
        """Report that the request, or a thread, is done."""
        with self._lock:
            self._workers -= 1
            is_done = self._workers == 0
        if is_done:
            reading = self._is_large and not self._is_read
            self._in_hand.release(self._bytes, reading=reading, working=self._is_read, slow=self._is_slow)


_PLACE: ContextVar[Place] = ContextVar("place")


async def in_threads(threads: Executor, work: Callable[..., T], *inputs: Any) -> T:
    """Have work done by threads for the present request, which stays in hand until it is done."""
    future = threads.submit(work, *inputs)
    if (place := _PLACE.get(None)) is not None:
        place.follow(future)
    # Not canceled with the request: what a client that left has sent would stay in the queue, and count no more.
    return await asyncio.shield(asyncio.wrap_future(future))


def reserve(nbytes: int) -> None:
    """Report that the present request holds so many bytes more or less, or is about to. Raises Overloaded."""
    if (place := _PLACE.get(None)) is not None:
        place.reserve(nbytes)
