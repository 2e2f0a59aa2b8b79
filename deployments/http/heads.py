"""Answers HEAD as GET, without the body.

FastAPI has no HEAD for a GET. The routes below this middleware see a GET, so the status and the headers are the same;
those that would do much for a body alone, which is not sent, ask `is_head`.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_MARK = "kinoray.head"


def is_head(scope: Scope) -> bool:
    """Whether the client asks for the headers only."""
    return _MARK in scope


class Heads:
    """The middleware that turns HEAD into GET."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def without_body(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        await self._app({**scope, "method": "GET", _MARK: True}, receive, without_body)
