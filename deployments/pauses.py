"""How a loop waits between its rounds."""

from __future__ import annotations

import asyncio


async def until_set(event: asyncio.Event, at_most_s: float | None) -> None:
    """Wait for an event, or for so many seconds; None is as long as it takes."""
    try:
        async with asyncio.timeout(at_most_s):
            await event.wait()
    except TimeoutError:
        pass
