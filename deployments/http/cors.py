"""Lets the pages of the origins in `cors_origins` call the API, and read what it answers: errors and events too.

A browser shows a page no answer, not even an error's status, that does not allow the page's origin. So this stands
outside everything else that answers in a replica. What Serve's proxy answers by itself is seen to in `proxy_answers`.
"""

from __future__ import annotations

from ray import serve
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.http.error_response import render
from deployments.http.errors import Forbidden
from pipelines.errors import InvalidRequest, KinorayError

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE")
EXPOSED = (
    "accept-ranges", "allow", "content-disposition", "content-range", "etag", "location", "openai-poll-after-ms",
    "preference-applied", "retry-after", "retry-after-ms", "www-authenticate", "x-request-id", "x-should-retry",
    "x-video-id",
)  # fmt: skip
"""The headers of answers that a page may read, beside those that it always may."""
MAX_AGE_S = 600
"""How long a browser remembers what it has asked for."""


class Cors:
    """The middleware. The replica's `settings` say whose pages may call; it does nothing where they name none."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._by_origins: dict[tuple[str, ...], _OurErrors] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # A lifespan begins before there is a replica.
        asked = scope["type"] == "http"
        origins: tuple[str, ...] = serve.get_replica_context().servable_object.settings.cors_origins if asked else ()
        if not origins:
            await self._app(scope, receive, send)
            return
        if origins not in self._by_origins:
            # Every header may be sent: OpenAI's clients have a dozen of their own, and ever new ones. A page of a
            # public site may call a service in a private network, since its operator has named the site.
            self._by_origins[origins] = _OurErrors(
                self._app, origins, METHODS, ["*"], expose_headers=EXPOSED, max_age=MAX_AGE_S,
                allow_private_network=True,
            )  # fmt: skip
        await self._by_origins[origins](scope, receive, send)


class _OurErrors(CORSMiddleware):
    """Starlette's, with the API's own errors."""

    def preflight_response(self, request_headers: Headers) -> Response:
        answer = super().preflight_response(request_headers)
        if answer.status_code < 400:
            return answer
        error: KinorayError = InvalidRequest(f"a page may send {', '.join(METHODS)}, with any headers")
        if not self.is_allowed_origin(request_headers["origin"]):
            error = Forbidden(
                "pages of this origin may not use this service: its operator can add it to args.cors_origins of the "
                "config",
                code="cross_site_request",
            )
        refused = render(error)
        kept = ("vary", "access-control-allow-origin", "access-control-allow-methods")
        refused.headers.update({name: answer.headers[name] for name in kept if name in answer.headers})
        return refused
