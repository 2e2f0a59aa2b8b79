"""Turns every error into `{"error": {"message", "type", "param", "code"}}`, the form that OpenAI's clients read."""

from __future__ import annotations

import logging
import math

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from deployments.http.errors import PerhapsAccepted, TooManyRequests, Unavailable, status_of
from deployments.http.schemas import speakable
from jobs.database import UNREACHABLE
from pipelines.errors import InvalidRequest, KinorayError
from storage.errors import StorageUnavailable

log = logging.getLogger("ray.serve")

NEVER_BETTER = (500, 501)
"""OpenAI's clients retry a request after these statuses, which could create a second job for an accepted request."""


def install(app: FastAPI) -> None:
    """Register the handlers on an app."""
    app.add_exception_handler(KinorayError, _known)
    for kind in UNREACHABLE:
        app.add_exception_handler(kind, _no_job_store)
    app.add_exception_handler(StorageUnavailable, _no_artifacts)
    app.add_exception_handler(RequestValidationError, _bad_query)
    app.add_exception_handler(HTTPException, _no_route)
    app.add_exception_handler(ClientDisconnect, _left)
    app.add_exception_handler(Exception, _bug)


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
    if status in NEVER_BETTER or (isinstance(error, PerhapsAccepted) and not error.repeatable):
        headers["x-should-retry"] = "false"
    body = {"message": error.message, "type": kind, "param": error.param, "code": error.code}
    return JSONResponse({"error": body}, status, headers)


async def _known(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, KinorayError)
    return render(error)


async def _no_job_store(_: Request, error: Exception) -> JSONResponse:
    log.warning("the job store cannot be reached: %s", type(error).__name__)
    return render(Unavailable("the job store cannot be reached; send the request again in a moment"))


async def _no_artifacts(_: Request, error: Exception) -> JSONResponse:
    log.warning("the artifact store cannot be used: %s", error)
    return render(Unavailable("the artifact store cannot be reached; send the request again in a moment"))


async def _bad_query(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    name = speakable(str(first["loc"][-1]))
    return render(InvalidRequest(f"{name or 'the body'}: {first['msg'][:1].lower()}{first['msg'][1:]}", param=name))


async def _no_route(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed", 413: "payload_too_large"}.get(
        error.status_code, "invalid_request"
    )
    return render(KinorayError(str(error.detail), code=code), error.status_code)


async def _left(_: Request, _error: Exception) -> JSONResponse:
    # Nobody reads this: the client left before it had sent its body.
    return render(InvalidRequest("the body ended before all of it was there"))


async def _bug(_: Request, error: Exception) -> JSONResponse:
    # Starlette raises the error again after this answer, and Serve logs its traceback.
    message = f"the server failed with {type(error).__name__}; its log says more"
    return render(KinorayError(message), 500)
