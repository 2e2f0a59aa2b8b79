"""What the API has Serve fetch from its proxy: what is read, when it is read."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import pytest
from fastapi import FastAPI, Request
from ray.serve._private.http_util import ASGIReceiveProxy

from deployments.api import app as api
from deployments.http.receiving import ReceiveOnDemand

BODY: list[dict[str, Any]] = [
    {"type": "http.request", "body": b"one ", "more_body": True},
    {"type": "http.request", "body": b"two", "more_body": False},
]


class Proxy:
    """Serve's proxy, as a replica calls it."""

    def __init__(self, *answers: list[dict[str, Any]]) -> None:
        self.calls = 0
        self._answers = list(answers)

    async def receive_asgi_messages(self, _metadata: Any) -> bytes:
        self.calls += 1
        return pickle.dumps(self._answers.pop(0))


async def serve(app: Any, proxy: Proxy, path: str) -> list[dict[str, Any]]:
    """One request, as Serve's replica has it answered: the fetching is begun beside it."""
    scope = {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"",
        "headers": [], "asgi": {"version": "3.0"},
    }  # fmt: skip
    receive = ASGIReceiveProxy(scope, None, proxy.receive_asgi_messages)
    fetching = asyncio.create_task(receive.fetch_until_disconnect())
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    fetching.cancel()
    await asyncio.wait([fetching])
    return sent


@pytest.fixture
def app() -> FastAPI:
    app = FastAPI()

    @app.post("/unread")
    async def unread() -> str:
        await asyncio.sleep(0.01)
        return "answered"

    @app.post("/read")
    async def read(request: Request) -> str:
        body = (await request.body()).decode()
        await asyncio.sleep(0.01)
        return body

    @app.post("/until-left")
    async def until_left(request: Request) -> str:
        await request.body()
        message = await request.receive()
        return str(message["type"])

    app.add_middleware(ReceiveOnDemand)
    return app


def answered(sent: list[dict[str, Any]]) -> bytes:
    assert sent[0]["status"] == 200
    return b"".join(each.get("body", b"") for each in sent[1:])


def test_a_body_that_is_not_read_is_not_fetched(app: FastAPI) -> None:
    proxy = Proxy(BODY)
    assert answered(asyncio.run(serve(app, proxy, "/unread"))) == b'"answered"'
    assert proxy.calls == 0


def test_a_body_is_fetched_in_as_many_calls_as_it_takes(app: FastAPI) -> None:
    for answers in ([BODY], [BODY[:1], BODY[1:]]):
        proxy = Proxy(*answers, [{"type": "http.disconnect"}])
        assert answered(asyncio.run(serve(app, proxy, "/read"))) == b'"one two"'
        assert proxy.calls == len(answers), "and no call more, for a disconnect that nobody waits for"


def test_one_who_waits_for_it_is_told_of_a_disconnect(app: FastAPI) -> None:
    proxy = Proxy(BODY, [{"type": "http.disconnect"}])
    assert answered(asyncio.run(serve(app, proxy, "/until-left"))) == b'"http.disconnect"'
    assert proxy.calls == 2


def test_the_api_has_it_before_anything_that_wraps_what_it_receives() -> None:
    outermost: Any = api.user_middleware[0].cls
    assert outermost is ReceiveOnDemand
