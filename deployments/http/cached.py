"""Keeps what a probe asks for, so that a flood of probes costs nothing, and one that hangs holds up nobody.

Load balancers, orchestrators and scrapers ask without a key, and each answer would be a call of Serve's controller or
some queries.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

FRESH_S = 1.0
"""How long an answer is given without asking anew."""
PATIENCE_S = 1.5
"""How long a caller waits for a look. A load balancer waits a few seconds for the whole answer."""

log = logging.getLogger("ray.serve")


@dataclass(frozen=True, slots=True)
class Known(Generic[T]):
    """What the last look that succeeded has found."""

    value: T
    age_s: float
    """Seconds since that look began."""


class Cached(Generic[T]):
    """A value that one thread of its own reads, one look at a time and at most one in `fresh_s`, however many ask.

    All calls are made on one event loop.
    """

    def __init__(
        self, look: Callable[[], T], name: str, *, fresh_s: float = FRESH_S, patience_s: float = PATIENCE_S
    ) -> None:
        """
        Args:
            look: reads the value; it may block, hang and fail.
            name: what the value is, for the log.
        """
        self._look, self._name = look, name
        self._fresh_s, self._patience_s = fresh_s, patience_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._looking: asyncio.Task[None] | None = None
        self._began_at = -math.inf
        self._last: tuple[float, T] | None = None

    async def get(self) -> Known[T] | None:
        """The value, or the last that was read if a new look hangs or fails; None if none has succeeded yet.

        Waits for a look for `patience_s` at most, and not at all for one that has hung for so long already.
        """
        if self._looking is None and time.monotonic() - self._began_at > self._fresh_s:
            self._began_at = time.monotonic()
            self._looking = asyncio.get_running_loop().create_task(self._refresh(self._began_at))
        left_s = self._began_at + self._patience_s - time.monotonic()
        if self._looking is not None and left_s > 0:
            await asyncio.wait([self._looking], timeout=left_s)
        if self._last is None:
            return None
        at, value = self._last
        return Known(value, time.monotonic() - at)

    async def _refresh(self, began_at: float) -> None:
        try:
            value = await asyncio.get_running_loop().run_in_executor(self._thread, self._look)
        except Exception:
            log.warning("the %s cannot be read; probes get what was known before", self._name, exc_info=True)
        else:
            self._last = began_at, value
        finally:
            self._looking = None
