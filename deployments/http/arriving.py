"""How long a body may take to arrive."""

from __future__ import annotations

import asyncio

from starlette.types import Message, Receive

from deployments.http.errors import TooSlow

SILENCE_S, LONGEST_S = 20.0, 120.0
"""How long a body may let wait for its next piece, and for its end. A body of 32 MiB needs 2.2 Mbit/s."""


def in_time(receive: Receive) -> Receive:
    """A request's messages, from now on. The wait for one raises TooSlow when the body takes too long."""
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + LONGEST_S

    async def receive_in_time() -> Message:
        try:
            async with asyncio.timeout_at(min(loop.time() + SILENCE_S, ends_at)):
                return await receive()
        except TimeoutError:
            raise TooSlow("the body did not arrive in time; send the request again") from None

    return receive_in_time
