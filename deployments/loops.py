"""Background loops of a replica, which outlive the failures of what they run."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

log = logging.getLogger("ray.serve")


async def forever(work: Callable[[], Awaitable[object]], stopped: Callable[[], bool] = lambda: False) -> None:
    """Run something again and again. It waits by itself; when it fails, a second passes before the next time."""
    while not stopped():
        try:
            await work()
        except Exception:
            # The store may be locked or its disk full for a while; jobs wait, none is lost.
            log.exception("a background loop failed; it goes on in a second")
            await asyncio.sleep(1)
