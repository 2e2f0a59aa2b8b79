"""Helpers for a replica's background work: repeat despite failures, wait for an event or an end, and retry a write."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from jobs.database import UNREACHABLE

T = TypeVar("T")

LONGEST_WAIT_S = 5.0

log = logging.getLogger("ray.serve")


async def forever(work: Callable[[], Awaitable[object]], stopped: Callable[[], bool] = lambda: False) -> None:
    """Run `work` again and again. `work` does its own waiting; after a failure, this waits a second."""
    while not stopped():
        try:
            await work()
        except Exception:
            # The store may be locked or its disk full for a while; jobs wait, but none is lost.
            log.exception("a background loop failed; it goes on in a second")
            await asyncio.sleep(1)


async def until_written(write: Callable[..., T], *values: Any, stopped: Callable[[], bool] = lambda: False) -> T:
    """Make a write in a thread, and retry it until the job store can be reached; once `stopped`, do not retry."""
    wait = 0.2
    while True:
        try:
            return await asyncio.to_thread(write, *values)
        except UNREACHABLE:
            if stopped():
                raise
            log.warning("the job store cannot be reached; trying again in %.1f s", wait)
        await asyncio.sleep(wait)
        wait = min(2 * wait, LONGEST_WAIT_S)


async def until_set(event: asyncio.Event, at_most_s: float | None) -> None:
    """Wait for an event, at most `at_most_s` seconds; None waits without a limit."""
    try:
        async with asyncio.timeout(at_most_s):
            await event.wait()
    except TimeoutError:
        pass


async def ended(future: asyncio.Future[Any]) -> None:
    """Wait for a future that cannot be interrupted, even if the caller is cancelled repeatedly."""
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            continue
    if not future.cancelled():
        future.exception()
