"""Puts what Serve's proxy answers by itself into the API's form, and lets the pages that may read answers read it.

Serve says in plain text that nothing is at a path, that no replica is there, or that a request took too long; where a
replica dies with a request it leaves the answer to its server. None of it names an origin. The proxy knows no settings,
so whose pages may read answers it learns from the replicas' answers that pass: a page's first request is a preflight,
which nothing here refuses.
"""

from __future__ import annotations

import logging

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.http.cors import EXPOSED
from deployments.http.error_response import render
from deployments.http.errors import NotFound, PerhapsAccepted, Unavailable
from pipelines.errors import KinorayError

log = logging.getLogger("ray.serve")

SERVES_OWN = "/-/"
"""Paths that Serve's proxy has for its operator."""
CREATES = ("/v1/videos", "/v1/videos/sync", "/remix")
"""How the paths end with which a request makes a job, so that to send it again may make another."""
KEPT = ("x-request-id", "retry-after")
GONE = 500
"""The status of what has no answer: the replica died with it."""


class Readers:
    """The origins whose pages may read answers; all middleware of a proxy shares them."""

    def __init__(self) -> None:
        self._allowed: set[str] = set()  # as many as the config has, since a replica allows no others

    def learn(self, scope: Scope, answer: Headers) -> None:
        """Take note of whether a replica lets the page that has sent a request read its answer."""
        origin, allowed = Headers(scope=scope).get("origin"), answer.get("access-control-allow-origin")
        if allowed is not None:
            self._allowed.add(allowed)
        elif origin is not None:
            self._allowed -= {origin, "*"}  # the config has changed

    def allow(self, scope: Scope, answer: Response) -> Response:
        """The answer, with what lets the page that asks read it, if it may."""
        origin = Headers(scope=scope).get("origin")
        for allowed in self._allowed & {origin, "*"}:
            answer.headers["access-control-allow-origin"] = allowed
            answer.headers["access-control-expose-headers"] = ", ".join(EXPOSED)
            answer.headers["vary"] = "Origin"
        return answer


class ProxyAnswers:
    """The outermost middleware of Serve's proxy."""

    def __init__(self, app: ASGIApp, readers: Readers) -> None:
        self._app = app
        self._readers = readers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(SERVES_OWN):
            await self._app(scope, receive, send)
            return
        started = instead = False

        async def pass_on(message: Message) -> None:
            nonlocal started, instead
            if message["type"] == "http.response.start":
                started = True
                headers = Headers(raw=[(name, value) for name, value in message["headers"]])
                instead = message["status"] >= 400 and headers.get("content-type", "").startswith("text/plain")
                if instead:
                    await self._say(message["status"], headers, scope, receive, send)
                else:
                    self._readers.learn(scope, headers)
            if not instead:
                await send(message)

        try:
            await self._app(scope, receive, pass_on)
        except Exception:
            if started:
                raise
            log.exception("Serve's proxy cannot pass on %s %s", scope["method"], scope["path"])
        if not started:
            await self._say(GONE, Headers(), scope, receive, send)

    async def _say(self, status: int, said: Headers, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer in the API's form what Serve has said by a status and its headers."""
        creates = scope["method"] == "POST" and scope["path"].rstrip("/").endswith(CREATES)
        repeatable = not creates or "idempotency-key" in Headers(scope=scope)
        answer = render(*_error(status, creates=creates, repeatable=repeatable))
        if status == 408 and not repeatable:  # OpenAI's clients would send it again
            answer.headers["x-should-retry"] = "false"
        answer.headers.update({name: said[name] for name in KEPT if name in said})
        await self._readers.allow(scope, answer)(scope, receive, send)


def _error(status: int, *, creates: bool, repeatable: bool) -> tuple[KinorayError, int | None]:
    """What a status of Serve's says to a client, and the status that says it; None for the error's own."""
    match status:
        case 404:
            why = "there is no such path: the service may not be deployed yet, or stand under a route_prefix"
            return NotFound(f"{why}, which GET {SERVES_OWN}routes tells"), None
        case 408:
            message = "the answer took longer than the request_timeout_s of Serve's http_options"
            return KinorayError(message, code="request_timeout"), status
        case 500 if creates:
            return PerhapsAccepted(None, repeatable=repeatable, gone="the replica of the API"), None
        case 500:
            return Unavailable("the replica of the API went away with this request; send it again"), None
        case _:
            why = "no replica of the API can take this request now; nothing was done; send it again in a moment"
            return Unavailable(why), status
