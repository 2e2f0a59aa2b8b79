"""What Serve's proxy refuses by itself, before a replica hears of it."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest

from cli.service import environment
from deployments.http import proxy_gate
from deployments.http.proxy_gate import LONG_S, MOST, Limit, ProxyGate, install, kind_of
from pipelines.paths import ROOT

VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"


def scope(method: str, path: str, **headers: str) -> dict[str, Any]:
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "method": method, "path": path, "headers": pairs}


@pytest.mark.parametrize(
    ("kind", "asked"),
    [
        ("creates", scope("POST", "/v1/videos")),
        ("creates", scope("POST", "/kinoray/v1/videos/")),
        ("creates", scope("POST", "/v1/videos/video_1/remix")),
        ("reads", scope("GET", "/v1/videos")),
        ("reads", scope("GET", "/v1/videos/video_1")),
        (None, scope("POST", "/v1/videos", prefer="respond-async, wait=10")),
        (None, scope("POST", "/v1/videos/sync")),
        (None, scope("POST", "/v1/videos/video_1/cancel")),
        (None, scope("DELETE", "/v1/videos/video_1")),
        (None, scope("GET", "/v1/videos/video_1/events")),
        (None, scope("GET", "/v1/videos/video_1/content")),
        (None, scope("GET", "/healthz")),
        (None, scope("POST", "/another/application")),
        (None, {"type": "lifespan"}),
    ],
)
def test_only_what_is_short_and_may_wait_is_bounded(kind: str | None, asked: dict[str, Any]) -> None:
    assert kind_of(asked) == kind


def test_one_too_many_is_refused_unread_and_the_next_is_let_in_when_one_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(proxy_gate.MOST, "creates", 2)

    async def run() -> None:
        go, reached = asyncio.Event(), 0

        async def app(asked: Any, _receive: Any, _send: Any) -> None:
            nonlocal reached
            reached += 1
            if asked["method"] == "POST":
                await go.wait()
                raise ConnectionError("its client has left")

        async def unread() -> Any:
            raise AssertionError("the body was read")

        async def ask(method: str) -> list[Any]:
            sent: list[Any] = []

            async def send(message: Any) -> None:
                sent.append(message)

            await gate(scope(method, "/v1/videos"), unread, send)
            return sent

        (middleware,) = install()
        gate: Any = middleware.cls(app, *middleware.args, **middleware.kwargs)
        inside = [asyncio.ensure_future(ask("POST")) for _ in range(2)]
        await asyncio.sleep(0)
        start, body = await ask("POST")
        assert start["status"] == 503
        headers = dict(start["headers"])
        assert 1 <= int(headers[b"retry-after"]) <= 3
        assert json.loads(body["body"])["error"]["code"] == "overloaded"
        await ask("GET")
        assert reached == 3, "the reads have places of their own"
        go.set()
        await asyncio.wait(inside)
        assert [str(each.exception()) for each in inside] == ["its client has left"] * 2
        with pytest.raises(ConnectionError):
            await ask("POST")
        assert reached == 4

    asyncio.run(run())


def test_fewer_creates_are_let_in_while_requests_take_long() -> None:
    limit = Limit()
    assert limit.now == MOST["creates"]
    for _ in range(100):
        limit.learn(LONG_S * 2)
    assert limit.now == 1, "never none, or it would not be known when it is better"
    before = limit.now
    limit.learn(LONG_S / 2)
    assert before < limit.now <= before + 1
    for _ in range(MOST["creates"] ** 2):
        limit.learn(LONG_S / 2)
    assert limit.now == MOST["creates"]


@pytest.mark.parametrize(
    ("asked", "learns"),
    [
        (scope("GET", "/v1/videos"), True),
        (scope("POST", "/v1/videos", **{"content-length": "300"}), True),
        (scope("POST", "/v1/videos", **{"content-length": "3000000"}), False),
        (scope("POST", "/v1/videos"), False),
    ],
)
def test_a_client_that_sends_slowly_says_nothing_of_the_service(
    monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], learns: bool
) -> None:
    learned: list[float] = []
    monkeypatch.setattr(Limit, "learn", lambda _, took_s: learned.append(took_s))

    async def app(*_: Any) -> None:
        await asyncio.sleep(0)

    gate: Any = ProxyGate(app)
    asyncio.run(gate(asked, app, app))
    assert bool(learned) == learns


def test_every_way_to_start_a_node_has_it(tmp_path: Any) -> None:
    named = environment(tmp_path)[VARIABLE]
    module, _, function = named.partition(":")
    assert (module, function) == (install.__module__, install.__name__)
    for file in ("Dockerfile", "scripts/node-env"):
        assert re.search(rf"^\s*{VARIABLE}={named}$", (ROOT / file).read_text(), re.MULTILINE), file
