"""Turns everything that a request can raise into an answer."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.http.create_fields import speakable
from deployments.http.error_response import render
from deployments.http.errors import NotFound, Unavailable
from jobs.database import UNREACHABLE
from pipelines.errors import InvalidRequest, KinorayError
from pipelines.wrong_values import wrong
from storage.errors import StorageUnavailable

METHODS = ("DELETE", "GET", "PATCH", "POST", "PUT")

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
    return render(InvalidRequest(f"{name or 'the body'} {wrong(first)}", param=name))


async def _no_route(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return render(NotFound("there is no such path; GET /openapi.json lists those that there are"))
    if error.status_code == 405:
        allowed = ", ".join(_methods(request))
        answer = render(KinorayError(f"this path takes {allowed}", code="method_not_allowed"), 405)
        answer.headers["allow"] = allowed
        return answer
    code = "payload_too_large" if error.status_code == 413 else "invalid_request"
    return render(KinorayError(str(error.detail), code=code), error.status_code)


def _methods(request: Request) -> list[str]:
    """The methods of a path, which several routes may have; Starlette knows those of the first one only."""
    found = {
        method
        for method in METHODS
        for route in request.app.routes
        if route.matches({**request.scope, "method": method})[0] is Match.FULL
    }
    return sorted(found | {"HEAD"} if "GET" in found else found)


async def _left(_: Request, _error: Exception) -> JSONResponse:
    # Nobody reads this: the client left before it had sent its body.
    return render(InvalidRequest("the body ended before all of it was there"))


class Bugs:
    """The middleware for what nobody has foreseen. Starlette's own would stand outside all other middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def noticed(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, noticed)
        except Exception as error:
            if not started and scope["type"] == "http":
                message = f"the server failed with {type(error).__name__}; its log says more"
                await render(KinorayError(message), 500)(scope, receive, send)
            raise  # Serve logs its traceback
