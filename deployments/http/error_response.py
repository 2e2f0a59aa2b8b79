"""The answer for an error: `{"error": {"message", "type", "param", "code"}}`, the form that OpenAI's clients read."""

from __future__ import annotations

import math

from starlette.responses import JSONResponse

from deployments.http.errors import NoSuchRange, PerhapsAccepted, TooManyRequests, status_of
from pipelines.errors import KinorayError

NEVER_BETTER = (500, 501)
"""OpenAI's clients retry a request after these statuses, which could create a second job for an accepted request."""


def render(error: KinorayError, status: int | None = None) -> JSONResponse:
    """The HTTP response for an error."""
    status = status or status_of(error)
    kind = "invalid_request_error" if status < 500 else "server_error"
    headers = {}
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, TooManyRequests):
        headers["retry-after"] = str(math.ceil(error.retry_after_s))
        headers["retry-after-ms"] = str(math.ceil(error.retry_after_s * 1000))
    if isinstance(error, NoSuchRange):
        headers["content-range"] = f"bytes */{error.size}"
    if status in NEVER_BETTER or (isinstance(error, PerhapsAccepted) and not error.repeatable):
        headers["x-should-retry"] = "false"
    body = {"message": error.message, "type": kind, "param": error.param, "code": error.code}
    return JSONResponse({"error": body}, status, headers)
