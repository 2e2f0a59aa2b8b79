"""What Serve's proxy refuses by itself, before a replica hears of it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from cli.service import environment
from deployments.http import arriving, proxy_gate
from deployments.http.kinds import Kind, kind_of, takes_body
from deployments.http.proxy_gate import PASSED_ON, install
from deployments.http.proxy_input import ProxyInput
from deployments.http.sizes import LARGE
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
        (Kind.CREATE, scope("POST", "/v1/videos", **SMALL)),
        (Kind.CREATE, scope("POST", "/kinoray/v1/videos/", **SMALL)),
        (Kind.LONG_CREATE, scope("POST", "/v1/videos/video_1/remix", **SMALL)),
        (Kind.LONG_CREATE, scope("POST", "/v1/videos", **{"content-length": str(LARGE)})),
        (Kind.LONG_CREATE, scope("POST", "/v1/videos", **{"transfer-encoding": "chunked"})),
        (Kind.CREATE, scope("POST", "/v1/videos")),
        (Kind.CREATE, scope("POST", "/v1/videos", **{"content-length": "0" * 5000 + "5"})),
        (Kind.LONG_CREATE, scope("POST", "/v1/videos", **{"content-length": "9" * 5000})),
        (Kind.LONG_CREATE, scope("POST", "/v1/uploads", **SMALL)),
        (Kind.LONG_CREATE, scope("PUT", "/kinoray/v1/uploads/upload_1", **SMALL)),
        (None, scope("POST", "/v1/videosque", **SMALL)),
        (Kind.READ, scope("GET", "/v1/videos")),
        (Kind.READ, scope("GET", "/v1/videos/video_1")),
        (Kind.READ, scope("HEAD", "/v1/videos")),
        (Kind.READ, scope("GET", "/kinoray/v1/videos")),
        (None, scope("GET", "/v1/videos/v1/models/events")),
        (Kind.CREATE, scope("POST", "/v1/videos", prefer="respond-async, wait=10", **SMALL)),
        (Kind.CREATE, scope("POST", "/v1/videos", prefer="awaits nothing", **SMALL)),
        (Kind.CREATE, scope("POST", "/v1/videos/sync", **SMALL)),
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
def test_only_what_is_short_and_may_wait_is_bounded(kind: Kind | None, asked: dict[str, Any]) -> None:
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
            raise ConnectionError("its replica has gone")

    async def ask(self, method: str, receive: Any = None, path: str = "/v1/videos", **headers: str) -> list[Any]:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        await self.gate(scope(method, path, **(headers or SMALL)), receive or whole, send)
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
    monkeypatch.setitem(proxy_gate.MOST, Kind.CREATE, PASSED_ON + 2)

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
        assert {each.result()[0]["status"] for each in inside} == {503}, "one whose replica has gone makes room too"
        assert world.bodies == [b"{}"] * (PASSED_ON + 3)
        await world.ask("POST")
        assert len(world.bodies) == PASSED_ON + 4

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
    monkeypatch.setitem(proxy_gate.MOST, Kind.CREATE, 1)

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


def test_a_create_with_a_picture_takes_no_short_ones_place() -> None:
    async def run() -> None:
        world = World()

        async def picture() -> Any:
            return {"type": "http.request", "body": b'{"input_reference": "https://a"}', "more_body": False}

        inside = world.begin(PASSED_ON + 2, "POST", picture)
        await settled()
        assert len(world.reached) == PASSED_ON + 2, "none of them waits for another"
        short = world.begin(PASSED_ON + 1, "POST")
        await settled()
        assert world.bodies.count(b"{}") == PASSED_ON
        world.go.set()
        await asyncio.wait([*inside, *short])

    asyncio.run(run())


@pytest.mark.parametrize("held", [{"prefer": "wait=60"}, {}], ids=["prefer", "sync"])
def test_one_that_waits_for_its_video_makes_room_once_it_is_accepted(
    monkeypatch: pytest.MonkeyPatch, held: dict[str, str]
) -> None:
    timers: list[Callable[[], None]] = []

    async def run() -> None:
        world = World()
        monkeypatch.setattr(asyncio.get_running_loop(), "call_later", lambda _, done: timers.append(done))
        path = "/v1/videos" if held else "/v1/videos/sync"
        inside = [asyncio.ensure_future(world.ask("POST", path=path, **held, **SMALL)) for _ in range(PASSED_ON + 1)]
        await settled()
        assert len(world.reached) == PASSED_ON, "until then it is one of them"
        timers[0]()
        await settled()
        assert len(world.reached) == PASSED_ON + 1
        world.go.set()
        await asyncio.wait(inside)
        again = world.begin(PASSED_ON, "POST")
        await asyncio.wait(again)
        assert len(world.reached) == 2 * PASSED_ON + 1, "and leaves only once"

    asyncio.run(run())


@pytest.mark.parametrize(
    ("taken", "method", "path"),
    [
        (True, "POST", "/v1/videos"), (True, "PUT", "/v1/uploads/upload_1"), (True, "PATCH", "/another"),
        (False, "POST", "/v1/videos/video_1/cancel"), (False, "GET", "/v1/videos/video_1/events"),
        (False, "DELETE", "/v1/videos/video_1"),
    ],
)  # fmt: skip
def test_serve_is_given_no_body_that_nobody_reads(taken: bool, method: str, path: str) -> None:
    sent = [{"type": "http.request", "body": b"x" * 100, "more_body": True}] * 3
    seen: list[Any] = []

    async def receive() -> Any:
        return sent.pop() if sent else {"type": "http.disconnect"}

    async def app(_scope: Any, receive: Any, _send: Any) -> None:
        while not seen or seen[-1]["type"] != "http.disconnect":
            seen.append(await receive())

    async def send(_: Any) -> None: ...

    asked = scope(method, path)
    asyncio.run(ProxyInput(app)(asked, receive, send))
    assert takes_body(asked) == taken
    bodies = [each.get("body") for each in seen[:-1]]
    assert bodies == ([b"x" * 100] * 3 if taken else [b""])


def test_a_client_steers_nothing_of_serves() -> None:
    seen: list[Any] = []

    async def app(given: Any, _receive: Any, _send: Any) -> None:
        seen.extend(given["headers"])

    own = [(b"x-request-id", b"mine"), (b"prefer", b"wait=1")]
    others = [
        (b"x-request-timeout-seconds", b"0.01"), (b"x-request-disconnect-disabled", b"?1"),
        (b"serve_multiplexed_model_id", b"m"), (b"x-request-id", b"\xff"),
    ]  # fmt: skip
    asyncio.run(ProxyInput(app)({**scope("GET", "/"), "headers": own + others}, unread, unread))  # type: ignore[arg-type]
    assert seen == own


def test_a_small_body_that_does_not_arrive_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arriving, "SILENCE_S", 0.01)

    async def run() -> None:
        world = World()
        begun = [{"type": "http.request", "body": b"{", "more_body": True}]

        async def stops() -> Any:
            return begun.pop() if begun else await asyncio.Event().wait()

        async with asyncio.timeout(60):
            start, body = await world.ask("POST", stops)
        assert (start["status"], json.loads(body["body"])["error"]["code"]) == (408, "body_timeout")
        assert world.reached == []

    asyncio.run(run())


def test_no_more_small_bodies_are_waited_for_than_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy_gate, "MOST_ARRIVING", 2)

    async def run() -> None:
        world = World()

        async def never() -> Any:
            await asyncio.Event().wait()

        waiting = world.begin(2, "POST", never)
        await settled()
        start, _ = await world.ask("POST", unread)
        assert start["status"] == 503
        for each in waiting:
            each.cancel()
        await asyncio.wait(waiting)
        world.go.set()
        await world.ask("POST")
        assert world.bodies == [b"{}"]

    asyncio.run(run())


def test_every_way_to_start_a_node_has_it(tmp_path: Any) -> None:
    named = environment(tmp_path)[VARIABLE]
    module, _, function = named.partition(":")
    assert (module, function) == (install.__module__, install.__name__)
    for file in ("Dockerfile", "scripts/node-env"):
        assert re.search(rf"^\s*{VARIABLE}={named}$", (ROOT / file).read_text(), re.MULTILINE), file
