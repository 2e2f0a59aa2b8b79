"""What Serve's proxy refuses by itself, before a replica hears of it."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest

from cli.service import environment
from deployments.http import proxy_gate
from deployments.http.proxy_gate import LARGE, PASSED_ON, install, kind_of
from pipelines.paths import ROOT

VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"


def scope(method: str, path: str, **headers: str) -> dict[str, Any]:
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "method": method, "path": path, "headers": pairs}


SMALL = {"content-length": "300"}


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow machine is no reason to refuse, and other tests' threads are not to switch as a proxy's."""
    monkeypatch.setattr(proxy_gate, "LONGEST_WAIT_S", 3600.0)
    monkeypatch.setattr(proxy_gate, "switch_soon", lambda: None)


@pytest.mark.parametrize(
    ("kind", "asked"),
    [
        ("creates", scope("POST", "/v1/videos", **SMALL)),
        ("creates", scope("POST", "/kinoray/v1/videos/", **SMALL)),
        ("creates", scope("POST", "/v1/videos/video_1/remix", **SMALL)),
        ("large creates", scope("POST", "/v1/videos", **{"content-length": str(LARGE)})),
        ("large creates", scope("POST", "/v1/videos", **{"transfer-encoding": "chunked"})),
        ("reads", scope("GET", "/v1/videos")),
        ("reads", scope("GET", "/v1/videos/video_1")),
        ("reads", scope("HEAD", "/v1/videos")),
        ("reads", scope("GET", "/kinoray/v1/videos")),
        (None, scope("GET", "/v1/videos/v1/models/events")),
        (None, scope("POST", "/v1/videos", prefer="respond-async, wait=10", **SMALL)),
        ("creates", scope("POST", "/v1/videos", prefer="awaits nothing", **SMALL)),
        (None, scope("POST", "/v1/videos/sync", **SMALL)),
        (None, scope("POST", "/v1/videos/video_1/cancel")),
        (None, scope("DELETE", "/v1/videos/video_1")),
        (None, scope("GET", "/v1/videos/video_1/events")),
        (None, scope("GET", "/v1/videos/video_1/content")),
        (None, scope("HEAD", "/v1/videos/video_1/events")),
        (None, scope("OPTIONS", "/v1/videos")),
        (None, scope("GET", "/healthz")),
        (None, scope("POST", "/another/application", **SMALL)),
        (None, {"type": "lifespan"}),
    ],
)
def test_only_what_is_short_and_may_wait_is_bounded(kind: str | None, asked: dict[str, Any]) -> None:
    assert kind_of(asked) == kind


class World:
    """A gate before an application that answers once it may."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.reached: list[str] = []
        self.bodies: list[bytes] = []
        self.gate: Any = self.app
        for middleware in install():  # as Serve does
            self.gate = middleware.cls(self.gate, *middleware.args, **middleware.kwargs)

    async def app(self, asked: Any, receive: Any, _send: Any) -> None:
        self.reached.append(asked["method"])
        if asked["method"] == "POST":
            self.bodies.append((await receive())["body"])
            await self.go.wait()
            raise ConnectionError("its client has left")

    async def ask(self, method: str, receive: Any = None, **headers: str) -> list[Any]:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        await self.gate(scope(method, "/v1/videos", **(headers or SMALL)), receive or whole, send)
        return sent

    def begin(self, count: int, *given: Any) -> list[asyncio.Future[Any]]:
        return [asyncio.ensure_future(self.ask(*given)) for _ in range(count)]


async def whole() -> Any:
    return {"type": "http.request", "body": b"{}", "more_body": False}


async def unread() -> Any:
    raise AssertionError("the body was read")


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_creates_wait_in_their_order_and_one_too_many_is_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(proxy_gate.MOST, "creates", PASSED_ON + 2)

    async def run() -> None:
        world = World()
        inside = world.begin(PASSED_ON + 2, "POST")
        await settled()
        assert len(world.reached) == PASSED_ON, "two wait"
        start, body = await world.ask("POST", unread)
        assert start["status"] == 503
        assert 1 <= int(dict(start["headers"])[b"retry-after"]) <= 3
        assert json.loads(body["body"])["error"]["code"] == "overloaded"
        large = asyncio.ensure_future(world.ask("POST", **{"content-length": str(LARGE)}))
        await world.ask("GET")
        await settled()
        assert world.reached[PASSED_ON:].count("GET") == 1, "reads have places of their own"
        assert len(world.reached) == PASSED_ON + 2, "and so have large creates"
        world.go.set()
        await asyncio.wait([*inside, large])
        assert [str(each.exception()) for each in inside] == ["its client has left"] * len(inside)
        assert world.bodies == [b"{}"] * (PASSED_ON + 3)
        with pytest.raises(ConnectionError):
            await world.ask("POST")

    asyncio.run(run())


def test_one_that_waits_too_long_is_refused_and_leaves_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy_gate, "LONGEST_WAIT_S", 0.01)

    async def run() -> None:
        world = World()
        inside = world.begin(PASSED_ON, "POST")
        await settled()
        start, _ = await world.ask("POST")
        assert start["status"] == 503
        assert len(world.reached) == PASSED_ON
        world.go.set()
        await asyncio.wait(inside)
        again = world.begin(PASSED_ON, "POST")
        await asyncio.wait(again)
        assert len(world.reached) == 2 * PASSED_ON

    asyncio.run(run())


def test_a_client_that_sends_slowly_takes_nobodys_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(proxy_gate.MOST, "creates", 1)

    async def run() -> None:
        world = World()
        parts = [
            {"type": "http.request", "body": b"{", "more_body": True},
            {"type": "http.request", "body": b"}", "more_body": False},
        ]
        rest = asyncio.Event()

        async def slowly() -> Any:
            if len(parts) == 1:
                await rest.wait()
            return parts.pop(0)

        (slow,) = world.begin(1, "POST", slowly)
        await settled()
        assert world.reached == []
        (quick,) = world.begin(1, "POST")
        await settled()
        assert world.bodies == [b"{}"]
        rest.set()
        start, _ = await slow
        assert start["status"] == 503, "its place is taken by now"
        world.go.set()
        await asyncio.wait([quick])

    asyncio.run(run())


def test_every_way_to_start_a_node_has_it(tmp_path: Any) -> None:
    named = environment(tmp_path)[VARIABLE]
    module, _, function = named.partition(":")
    assert (module, function) == (install.__module__, install.__name__)
    for file in ("Dockerfile", "scripts/node-env"):
        assert re.search(rf"^\s*{VARIABLE}={named}$", (ROOT / file).read_text(), re.MULTILINE), file
