"""Puts the path that a reverse proxy has taken off back in front of the links in answers.

A proxy that serves `/videos/v1/models` from this service's `/v1/models` says so with `X-Forwarded-Prefix: /videos`. The
`urls` of a Video, an upload's URL, redirects, `/docs` and the servers in `/openapi.json` then begin with it, and with
the application's own `route_prefix` after it.

Who says it need not be trusted: it is a plain path, never a host, it opens no route, and it changes nothing but the
links in the answer to the one who has sent it.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.configuration.prefix import read_prefix
from deployments.http.error_response import render
from pipelines.errors import InvalidRequest

HEADER = "x-forwarded-prefix"


class ForwardedPrefix:
    """The middleware that reads the header."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (said := ",".join(Headers(scope=scope).getlist(HEADER))):
            try:
                prefix = "".join(read_prefix(each.strip()) for each in said.split(","))  # the outermost proxy's first
            except ValueError as error:
                await render(InvalidRequest(f"{HEADER} {error}", param=HEADER))(scope, receive, send)
                return
            scope = {**scope, "path": prefix + scope["path"], "root_path": prefix + scope.get("root_path", "")}
        await self._app(scope, receive, send)
