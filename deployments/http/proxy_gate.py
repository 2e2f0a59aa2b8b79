"""Refuses what is too much in Serve's proxy itself, before anything of it is passed on to a replica.

The proxy is one process that all requests of a node go through, and to pass one on and its answer back takes it many
times as long as to refuse it. So replicas that refuse what they cannot do would not be enough: under a flood of creates
even a probe would wait in the proxy, behind hundreds that are on their way to be refused.

Serve's processes find `install` by the environment variable that `cli.service.environment` sets. Where Serve has no
proxy, it puts the gate before each replica.
"""

from __future__ import annotations

import sys
import time

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.http.error_response import render
from deployments.http.overload import overloaded

MOST = {"creates": 32, "reads": 256}
"""The most requests of a kind that one proxy has on their way. They are for a fraction of a second each, so these are
hundreds a second."""
LONG_S = 0.25
"""A request that takes longer than this has waited for others."""


def kind_of(scope: Scope) -> str | None:
    """The kind of a request; None for what is held open or must not be delayed, which the replicas bound."""
    path: str = scope["path"].rstrip("/") if scope["type"] == "http" else ""
    _, videos, below = path.partition("/v1/videos")
    if not videos:
        return None
    match scope["method"]:
        case "POST" if not below.endswith(("/cancel", "/sync")) and not _waits(scope):
            return "creates"
        case "GET" if not below.endswith(("/events", "/content")):
            return "reads"
    return None


def _waits(scope: Scope) -> bool:
    return any(name == b"prefer" and b"wait" in value.lower() for name, value in scope["headers"])


def _is_small(scope: Scope) -> bool:
    """Whether a body is so small that it was there at once."""
    return any(name == b"content-length" and len(value) < 5 for name, value in scope["headers"])


class Limit:
    """How many creates may be on their way: fewer when requests take long, so that reads and probes need not wait
    behind them, and more again while they do not.

    The rule is that of TCP: what is one too many is taken back at once, and tried again slowly.
    """

    def __init__(self) -> None:
        self.now = float(MOST["creates"])

    def learn(self, took_s: float) -> None:
        """Note how long a request took whose client did not make it wait."""
        if took_s > LONG_S:
            self.now = max(self.now * 0.9, 1.0)
        else:
            self.now = min(self.now + 1 / self.now, MOST["creates"])


class ProxyGate:
    """Middleware that bounds the requests of each kind that are inside at once."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._inside = dict.fromkeys(MOST, 0)
        self._limit = Limit()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = kind_of(scope)
        if kind is None:
            await self._app(scope, receive, send)
            return
        if self._inside[kind] >= (self._limit.now if kind == "creates" else MOST[kind]):
            await render(overloaded(kind))(scope, receive, send)
            return
        self._inside[kind] += 1
        began_at = time.monotonic()
        try:
            await self._app(scope, receive, send)
        finally:
            self._inside[kind] -= 1
            if kind == "reads" or _is_small(scope):
                self._limit.learn(time.monotonic() - began_at)


def install() -> list[Middleware]:
    """What Serve puts before its proxy."""
    sys.setswitchinterval(0.0005)
    return [Middleware(ProxyGate)]
