"""What Serve's proxy gets to see of a request: no body where none is read, and none of the headers that steer Serve.

Serve's proxy keeps all that a client sends until a replica asks for it, without a bound. Nobody asks for the body of a
read, and an event stream lasts as long as its job.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.http.kinds import takes_body

STEERING = frozenset(
    {
        b"x-request-timeout-seconds",
        b"x-request-disconnect-disabled",
        b"serve_multiplexed_model_id",
        b"serve-multiplexed-model-id",
    }
)
"""Serve's headers by which a client would choose how long its request may take, whether it is missed when it leaves,
and its replica. A create that is given up after a moment may be accepted, and /sync of one who leaves is canceled."""
REQUEST_ID = b"x-request-id"


class ProxyInput:
    """Middleware of Serve's proxy."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = [(name, value) for name, value in scope["headers"] if _is_ours(name.lower(), value)]
            scope = {**scope, "headers": headers}
            receive = receive if takes_body(scope) else _without_body(receive)
        await self._app(scope, receive, send)


def _is_ours(name: bytes, value: bytes) -> bool:
    """Whether a header may pass. Serve cannot read the id of a request in anything but UTF-8."""
    return name not in STEERING and (name != REQUEST_ID or value.isascii())


def _without_body(receive: Receive) -> Receive:
    """A receive that says that there is no body, and drops what is sent."""
    has_said = False

    async def receive_none() -> Message:
        nonlocal has_said
        while (message := await receive())["type"] == "http.request":
            if not has_said:
                has_said = True
                return {"type": "http.request", "body": b"", "more_body": False}
        return message

    return receive_none
