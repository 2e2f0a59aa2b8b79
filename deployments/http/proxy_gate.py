"""Refuses what is too much in Serve's proxy itself, before anything of it is passed on to a replica.

The proxy is one process that all requests of a node go through, and to pass one on and its answer back takes it many
times as long as to refuse it. So replicas that refuse what they cannot do would not be enough: under a flood of creates
even a probe would wait in the proxy, behind hundreds that are on their way to be refused.

Serve's processes find `install` by the environment variable that `cli.service.environment` sets. Where Serve has no
proxy, it puts the gate before each replica.
"""

from __future__ import annotations

import asyncio

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.http.arriving import in_time
from deployments.http.error_response import render
from deployments.http.errors import TooSlow
from deployments.http.kinds import Kind, has_picture, is_held_open, kind_of
from deployments.http.overload import overloaded
from deployments.http.proxy_answers import ProxyAnswers, Readers
from deployments.http.proxy_input import ProxyInput
from deployments.http.threads import switch_soon

MOST = {Kind.CREATE: 32, Kind.LONG_CREATE: 32, Kind.READ: 256}
"""The most requests of a kind that one proxy has in hand."""
MOST_ARRIVING = 1000
"""The most small bodies that are waited for, of less than 64 KiB each."""
PASSED_ON = 8
"""How many of the short creates are on their way at once; the others wait here in their order, which delays nothing
else. Each takes some hundredths of a second, so these are hundreds a second."""
LONGEST_WAIT_S = 0.6
"""A create that has waited here for so long is refused too."""
ACCEPTED_S = 0.1
"""A create whose answer waits for its video has been accepted by then, as a rule, and makes room for the next."""


class ProxyGate:
    """Middleware that bounds the requests of each kind."""

    def __init__(self, app: ASGIApp, readers: Readers) -> None:
        self._app = app
        self._readers = readers
        self._inside = dict.fromkeys(Kind, 0)
        self._arriving = 0
        self._passed_on = asyncio.Semaphore(PASSED_ON)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = kind_of(scope)
        if kind is None:
            await self._app(scope, receive, send)
            return
        if kind is Kind.CREATE and not self._is_full(kind):
            if self._arriving >= MOST_ARRIVING:
                await self._refuse(kind, scope, receive, send)
                return
            self._arriving += 1
            try:
                body, receive = await _received(receive)
            except TooSlow as slow:
                await self._readers.allow(scope, render(slow))(scope, receive, send)
                return
            finally:
                self._arriving -= 1
            if has_picture(body):
                kind = Kind.LONG_CREATE
        if self._is_full(kind):
            await self._refuse(kind, scope, receive, send)
        elif kind is Kind.CREATE:
            await self._in_turn(scope, receive, send)
        else:
            self._inside[kind] += 1
            try:
                await self._app(scope, receive, send)
            finally:
                self._inside[kind] -= 1

    def _is_full(self, kind: Kind) -> bool:
        return self._inside[kind] >= MOST[kind]

    async def _in_turn(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._inside[Kind.CREATE] += 1
        is_inside, is_passed_on = True, False

        def leave() -> None:
            nonlocal is_inside, is_passed_on
            self._inside[Kind.CREATE] -= is_inside
            if is_passed_on:
                self._passed_on.release()
            is_inside = is_passed_on = False

        try:
            try:
                async with asyncio.timeout(LONGEST_WAIT_S):
                    is_passed_on = await self._passed_on.acquire()
            except TimeoutError:
                await self._refuse(Kind.CREATE, scope, receive, send)
                return
            if is_held_open(scope):
                asyncio.get_running_loop().call_later(ACCEPTED_S, leave)
            await self._app(scope, receive, send)
        finally:
            leave()

    async def _refuse(self, kind: Kind, scope: Scope, receive: Receive, send: Send) -> None:
        answer = render(overloaded("reads" if kind is Kind.READ else "creates"))
        await self._readers.allow(scope, answer)(scope, receive, send)


async def _received(receive: Receive) -> tuple[bytes, Receive]:
    """Wait for a small body, so that a client that sends it slowly takes nobody's place meanwhile. Raises TooSlow."""
    messages: list[Message] = []
    next_message = in_time(receive)
    while not messages or messages[-1].get("more_body"):
        messages.append(await next_message())
    body = b"".join(message.get("body", b"") for message in messages)

    async def again() -> Message:
        return messages.pop(0) if messages else await receive()

    return body, again


def install() -> list[Middleware]:
    """What Serve puts before its proxy, the outermost last."""
    switch_soon()
    readers = Readers()
    return [Middleware(ProxyInput), Middleware(ProxyGate, readers), Middleware(ProxyAnswers, readers)]
