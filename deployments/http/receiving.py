"""Has Serve ask its proxy for a request's body, and for its client's disconnect, only when the API reads them.

Without this Serve asks from the moment at which a request reaches a replica, whether it has a body or not, and once
more when the body is there: each a call of the proxy's actor, which most often ends as an error there, since by then
the request has been answered. A poll then costs the proxy, which all requests go through, half as much again.

A client that leaves is noticed as before: the proxy has Serve cancel what it had asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from ray.serve._private.http_util import ASGIReceiveProxy
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class ReceiveOnDemand:
    """The outermost middleware, so that it gets Serve's own `receive`, whose fetching has not begun yet."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, on_demand(receive) if isinstance(receive, ASGIReceiveProxy) else receive, send)


def on_demand(serves: ASGIReceiveProxy) -> Receive:
    """The same messages, each fetched once it is awaited."""
    fetch = serves._receive_asgi_messages
    wanted = asyncio.Event()

    async def fetch_if_wanted(metadata: Any) -> bytes:
        await wanted.wait()
        wanted.clear()
        fetched: Awaitable[bytes] = fetch(metadata)
        return await fetched

    async def receive() -> Message:
        if serves.queue.empty():
            wanted.set()
        message: Message = await serves()
        return message

    serves._receive_asgi_messages = fetch_if_wanted
    return receive
