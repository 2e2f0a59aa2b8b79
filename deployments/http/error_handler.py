"""Turns everything that a request can raise into an answer."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse

from deployments.http.error_response import render
from deployments.http.errors import Unavailable
from deployments.http.schemas import speakable
from jobs.database import UNREACHABLE
from pipelines.errors import InvalidRequest, KinorayError
from storage.errors import StorageUnavailable

log = logging.getLogger("ray.serve")


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
