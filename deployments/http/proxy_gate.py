"""Refuses what is too much in Serve's proxy itself, before anything of it is passed on to a replica.

The proxy is one process that all requests of a node go through, and to pass one on and its answer back takes it many
times as long as to refuse it. So replicas that refuse what they cannot do would not be enough: under a flood of creates
even a probe would wait in the proxy, behind hundreds that are on their way to be refused.

Serve's processes find `install` by the environment variable that `cli.service.environment` sets. Where Serve has no
proxy, it puts the gate before each replica.
"""

from __future__ import annotations

import asyncio
import math

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.http.error_response import render
from deployments.http.overload import overloaded
from deployments.http.prefer import parse_prefer
from deployments.http.proxy_answers import ProxyAnswers, Readers
from deployments.http.threads import switch_soon

MOST = {"creates": 32, "large creates": 32, "reads": 256}
"""The most requests of a kind that one proxy has in hand."""
PASSED_ON = 8
"""How many of the creates are on their way at once; the others wait here in their order, which delays nothing else. A
create takes some hundredths of a second, so these are hundreds a second."""
LONGEST_WAIT_S = 0.6
"""A create that has waited here for so long is refused too."""
LARGE = 65536
"""From so many bytes on a body takes its client a while to send. Creates with such bodies have places of their own."""


def kind_of(scope: Scope) -> str | None:
    """The kind of a request; None for what is held open or must not be delayed, which the replicas bound."""
    path: str = scope["path"].rstrip("/") if scope["type"] == "http" else ""
    _, videos, below = path.rpartition("/v1/videos")  # whatever the route_prefix is
    if not videos:
        return None
    match scope["method"]:
        case "POST" if not below.endswith(("/cancel", "/sync")):
            headers = Headers(scope=scope)
            if parse_prefer(headers.get("prefer"), math.inf) is not None:
                return None
            length = headers.get("content-length", "")
            return "creates" if length.isdecimal() and int(length) < LARGE else "large creates"
        case "GET" | "HEAD" if not below.endswith(("/events", "/content")):
            return "reads"
    return None


class ProxyGate:
    """Middleware that bounds the requests of each kind."""

    def __init__(self, app: ASGIApp, readers: Readers) -> None:
        self._app = app
        self._readers = readers
        self._inside = dict.fromkeys(MOST, 0)
        self._passed_on = asyncio.Semaphore(PASSED_ON)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = kind_of(scope)
        if kind is None:
            await self._app(scope, receive, send)
            return
        if kind == "creates" and not self._is_full(kind):
            receive = await _received(receive)
        if self._is_full(kind):
            await self._refuse(kind, scope, receive, send)
            return
        self._inside[kind] += 1
        try:
            if kind == "creates":
                await self._in_turn(scope, receive, send)
            else:
                await self._app(scope, receive, send)
        finally:
            self._inside[kind] -= 1

    def _is_full(self, kind: str) -> bool:
        return self._inside[kind] >= MOST[kind]

    async def _in_turn(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(LONGEST_WAIT_S):
                await self._passed_on.acquire()
        except TimeoutError:
            await self._refuse("creates", scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        finally:
            self._passed_on.release()

    async def _refuse(self, kind: str, scope: Scope, receive: Receive, send: Send) -> None:
        answer = render(overloaded("reads" if kind == "reads" else "creates"))
        await self._readers.allow(scope, answer)(scope, receive, send)


async def _received(receive: Receive) -> Receive:
    """Wait for a small body, so that a client that sends it slowly takes nobody's place meanwhile."""
    messages: list[Message] = []
    while not messages or messages[-1].get("more_body"):
        messages.append(await receive())

    async def again() -> Message:
        return messages.pop(0) if messages else await receive()

    return again


def install() -> list[Middleware]:
    """What Serve puts before its proxy, the outermost last."""
    switch_soon()
    readers = Readers()
    return [Middleware(ProxyGate, readers), Middleware(ProxyAnswers, readers)]
