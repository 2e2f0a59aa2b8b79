"""Notifies the conductors of new jobs, a few times a second at most: a call for each job would cost as much as the job.

A conductor that is told once looks for all that is queued, and finds by itself what it was not told of.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable

EVERY_S = 0.1

log = logging.getLogger("ray.serve")


class Notifying:
    """Used on one event loop."""

    def __init__(self, notify: Callable[[], object], every_s: float = EVERY_S) -> None:
        self._notify, self._every_s = notify, every_s
        self._last_at = -math.inf
        self._timer: asyncio.TimerHandle | None = None

    def of_job(self) -> None:
        """Notify at once, or as soon as it is time again. Raises nothing: the jobs are accepted."""
        if self._timer is None:
            loop = asyncio.get_running_loop()
            at = self._last_at + self._every_s
            if at <= loop.time():
                self._send()
            else:
                self._timer = loop.call_at(at, self._send)

    def _send(self) -> None:
        self._timer, self._last_at = None, asyncio.get_running_loop().time()
        try:
            self._notify()
        except Exception as error:
            # A conductor that is told nothing finds the jobs a moment later.
            log.warning("no conductor was told of new jobs: %s", error)
