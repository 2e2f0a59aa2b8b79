"""What the API does when there is more to do than it can: on its real routes, with its real job store."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.datastructures import Headers

from deployments.api import STORING
from deployments.http import overload, queue_view
from deployments.http.cached import Cached
from deployments.http.errors import Overloaded
from deployments.http.overload import HeldOpen, Lane
from deployments.http.queue_view import QueueView
from deployments.http.readiness import Readiness
from jobs.record import Job
from jobs.store import Waiting
from tests.harness.data_urls import EXAMPLE as PICTURE
from tests.harness.processes import until as until_true
from tests.unit.api_world import ApiWorld, run_api, until

JSON = {"content_type": "application/json", "content_length": "15"}
DEADLINE_S = 60.0


@pytest.fixture
def world(tmp_path: Path) -> Iterator[ApiWorld]:
    """A replica that takes one create, a few reads and two held answers at once."""
    with run_api(tmp_path, max_creates_at_once=1, max_reads_at_once=6, max_held_open=2) as world:
        yield world


async def unread() -> Any:
    raise AssertionError("the body was read")


class Hold:
    """A job store call that stands still until it may go on."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.inside = 0

    def __call__(self, *_: Any, **__: Any) -> Any:
        self.inside += 1
        assert self.go.wait(DEADLINE_S)
        raise RuntimeError("it stands still no longer")


def test_a_create_too_many_is_refused_before_its_body_is_read_and_the_rest_goes_on(world: ApiWorld) -> None:
    async def run() -> None:
        async with world.http() as http:
            job = (await http.post("/v1/videos", json={"prompt": "p"})).json()
            accept, go = world.api.submission.accept, asyncio.Event()

            async def slow(*given: Any) -> Job:
                await go.wait()
                accepted: Job = await accept(*given)
                return accepted

            world.api.submission.accept = slow
            first = asyncio.create_task(http.post("/v1/videos", json={"prompt": "p"}))
            await until(lambda: world.api.in_hand.working == 1)
            for path in ("/v1/videos", "/v1/videos/sync", f"/v1/videos/{job['id']}/remix", "/v1/uploads"):
                status, headers = await world.ask("POST", path, unread, **JSON)
                assert (path, status) == (path, 503)
                wait_s = int(headers["retry-after-ms"]) / 1000
                assert overload.RETRY_AFTER_S[0] <= wait_s <= overload.RETRY_AFTER_S[1]
                assert int(headers["retry-after"]) >= wait_s
            assert (await world.ask("PUT", "/v1/uploads/upload_x", unread, **JSON))[0] == 503
            refused = await http.post("/v1/videos", json={"prompt": "p"})
            assert refused.json()["error"]["code"] == "overloaded"
            assert (await http.get(f"/v1/videos/{job['id']}")).status_code == 200
            assert (await http.get("/healthz")).status_code == 200
            assert (await http.post(f"/v1/videos/{job['id']}/cancel")).json()["error"]["code"] == "canceled"
            assert (await http.delete(f"/v1/videos/{job['id']}")).status_code == 200
            go.set()
            assert (await first).status_code == 200
            assert (await http.post("/v1/videos", json={"prompt": "p"})).status_code == 200, "there is room again"
            assert len((await http.get("/v1/videos")).json()["data"]) == 2, "a refused create has left nothing"

    asyncio.run(run())


def test_a_create_that_fails_makes_room(world: ApiWorld) -> None:
    wrong: tuple[Any, ...] = ({"x": 1}, [], {"prompt": 1})

    async def run() -> list[int]:
        async with world.http() as http:
            return [(await http.post("/v1/videos", json=each)).status_code for each in wrong]

    assert asyncio.run(run()) == [400, 400, 400]
    assert (world.api.in_hand.working, world.api.in_hand.bytes) == (0, 0)


def test_reads_that_stand_still_delay_neither_creates_nor_cancels_nor_probes(world: ApiWorld) -> None:
    hold = Hold()

    async def run() -> None:
        async with world.http() as http:
            job = (await http.post("/v1/videos", json={"prompt": "p"})).json()
            world.api.jobs.page = hold
            reads = [asyncio.create_task(http.get("/v1/videos")) for _ in range(6)]
            await until(lambda: world.api.reads._inside == 6)
            for path in ("/v1/videos", f"/v1/videos/{job['id']}", f"/v1/videos/{job['id']}/content"):
                answer = await http.get(path)
                assert (answer.status_code, answer.json()["error"]["code"]) == (503, "overloaded")
                assert "retry-after" in answer.headers
            assert (await http.get("/healthz")).status_code == 200
            assert (await http.get("/metrics")).status_code == 200
            assert (await http.post(f"/v1/videos/{job['id']}/cancel")).json()["error"]["code"] == "canceled"
            assert (await http.delete(f"/v1/videos/{job['id']}")).status_code == 200
            made = asyncio.create_task(http.post("/v1/videos", json={"prompt": "p"}))
            await until(lambda: world.conductor.notified == 2)  # it is accepted while every reader stands still
            hold.go.set()
            assert (await made).status_code == 200
            await asyncio.gather(*reads, return_exceptions=True)
            await until(lambda: world.api.reads._inside == 0)

    try:
        asyncio.run(run())
    finally:
        hold.go.set()


def test_streams_and_waits_are_bounded_and_hold_no_thread(world: ApiWorld) -> None:
    async def run() -> None:
        async with world.http() as http:
            job = (await http.post("/v1/videos", json={"prompt": "p"})).json()
            path = f"/v1/videos/{job['id']}"
            here = asyncio.Event()

            async def stays() -> Any:
                await here.wait()
                return {"type": "http.disconnect"}

            streams = [asyncio.create_task(world.ask("GET", f"{path}/events", stays)) for _ in range(2)]
            await until(lambda: bool(world.api.held_open.full))
            assert (await world.ask("GET", f"{path}/events", unread))[0] == 503
            assert (await world.ask("POST", "/v1/videos/sync", unread, **JSON))[0] == 503
            waited = await http.post("/v1/videos", json={"prompt": "p"}, headers={"prefer": "wait=50"})
            assert waited.status_code == 200, "a preference that cannot be met is no error"
            assert "preference-applied" not in waited.headers
            assert (await http.get(path)).status_code == 200
            lanes = (world.api.reads, world.api.changes, world.api.contents._lane)
            assert [lane._inside for lane in lanes] == [0, 0, 0]
            assert (await http.post(f"{path}/cancel")).status_code == 200
            assert [status for status, _ in await asyncio.gather(*streams)] == [200, 200], "they have seen the end"
            assert not world.api.held_open.full
            again = await http.post("/v1/videos", json={"prompt": "p"}, headers={"prefer": "wait=0"})
            assert again.headers["preference-applied"] == "wait=0"

    asyncio.run(run())


def test_a_stream_whose_client_leaves_makes_room(world: ApiWorld) -> None:
    async def run() -> None:
        async with world.http() as http:
            job = (await http.post("/v1/videos", json={"prompt": "p"})).json()
            leaves = asyncio.Event()

            async def receive() -> Any:
                await leaves.wait()
                return {"type": "http.disconnect"}

            for _ in range(3):
                leaves.clear()
                stream = asyncio.create_task(world.ask("GET", f"/v1/videos/{job['id']}/events", receive))
                await until(lambda: world.api.held_open._open == 1)
                leaves.set()
                await stream
                await until(lambda: world.api.held_open._open == 0)

    asyncio.run(run())


def test_a_flood_of_probes_and_scrapes_costs_nothing(world: ApiWorld) -> None:
    looks: list[str] = []

    def counted(name: str, value: Callable[[], Any]) -> Cached[Any]:
        def look() -> Any:
            looks.append(name)
            return value()

        return Cached(look, name, fresh_s=3600.0)

    world.api.ready = counted("ready", lambda: Readiness((), {}, {}, 1))
    world.api.exposition = counted("metrics", lambda: (b"text", "text/plain"))
    world.api.commits = counted("commits", dict)

    async def run() -> set[int]:
        async with world.http() as http:
            paths = ["/readyz", "/metrics", "/v1/models", "/healthz"] * 50
            return {answer.status_code for answer in await asyncio.gather(*(http.get(path) for path in paths))}

    assert asyncio.run(run()) == {200}
    assert sorted(looks) == ["commits", "metrics", "ready"]


def test_a_controller_or_store_that_hangs_is_told_of_in_time(world: ApiWorld) -> None:
    hold = Hold()
    world.api.ready = Cached(hold, "readiness", patience_s=0.05)
    world.api.exposition = Cached(hold, "metrics", patience_s=0.05)

    async def run() -> None:
        async with world.http() as http, asyncio.timeout(DEADLINE_S / 2):
            ready = await http.get("/readyz")
            assert (ready.status_code, ready.json()["status"]) == (503, "unknown")
            assert (await http.get("/metrics")).status_code == 503
            assert (await http.get("/v1/models")).status_code == 200
            assert (await http.get("/healthz")).status_code == 200
            hold.go.set()

    try:
        asyncio.run(run())
    finally:
        hold.go.set()


def test_openais_client_comes_again_after_the_time_it_is_told(world: ApiWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    from openai import AsyncOpenAI

    monkeypatch.setattr(overload, "RETRY_AFTER_S", (0.3, 0.3))

    async def run() -> tuple[str, float]:
        async with world.http() as http:
            ours: Any = http
            client = AsyncOpenAI(base_url="http://127.0.0.1/v1", api_key="k", http_client=ours)
            with world.api.in_hand.enter(Headers({"content-length": "1"})) as place:
                place.read()
                began_at = time.monotonic()
                asked = asyncio.create_task(client.videos.create(prompt="p", model="ltx-tiny"))
                await asyncio.sleep(0.1)
            return (await asked).status, time.monotonic() - began_at

    status, took_s = asyncio.run(run())
    assert status == "queued"
    assert took_s >= 0.3


def test_a_lane_counts_a_thread_until_it_is_free_whoever_has_left() -> None:
    hold = Hold()

    async def run() -> None:
        lane = Lane("reads", 1, 2)
        first, second = (asyncio.create_task(lane.run(hold)) for _ in range(2))
        await until(lambda: hold.inside == 1)
        with pytest.raises(Overloaded):
            await lane.run(hold)
        first.cancel()
        await asyncio.wait([first])
        with pytest.raises(Overloaded):
            await lane.run(hold)
        follows = asyncio.create_task(lane.finish(int))
        second.cancel()  # it has not begun: its place is free at once
        await until(lambda: lane._inside == 2)
        hold.go.set()
        assert await follows == 0
        assert await lane.run(int) == 0
        await until(lambda: lane._inside == 0)

    try:
        asyncio.run(run())
    finally:
        hold.go.set()


def test_streams_that_begin_together_are_as_many_as_there_may_be(tmp_path: Path) -> None:
    async def run(world: ApiWorld) -> None:
        async with world.http() as http:
            path = f"/v1/videos/{(await http.post('/v1/videos', json={'prompt': 'p'})).json()['id']}"
            end = asyncio.Event()

            async def stays() -> Any:
                await end.wait()
                return {"type": "http.disconnect"}

            asked = [asyncio.create_task(world.ask("GET", f"{path}/events", stays)) for _ in range(20)]
            await until(lambda: sum(each.done() for each in asked) == 18)
            assert {each.result()[0] for each in asked if each.done()} == {503}
            assert (await http.post(f"{path}/cancel")).status_code == 200
            assert sorted([status for status, _ in await asyncio.gather(*asked)])[:2] == [200, 200]

    with run_api(tmp_path, max_held_open=2) as world:
        asyncio.run(run(world))
        assert world.api.held_open._open == 0


def test_a_cancel_does_not_wait_for_files_to_go(tmp_path: Path) -> None:
    hold = Hold()

    async def run(world: ApiWorld) -> None:
        async with world.http() as http, asyncio.timeout(DEADLINE_S / 2):
            asked = [http.post("/v1/videos", json={"prompt": "p", "input_reference": PICTURE}) for _ in range(4)]
            ids = [(await each).json()["id"] for each in asked]
            for each in ids:
                assert (await http.post(f"/v1/videos/{each}/cancel")).json()["error"]["code"] == "canceled"
            hold.go.set()

    with run_api(tmp_path) as world:
        world.api.store.delete_prefix = lambda _: hold()
        try:
            asyncio.run(run(world))
        finally:
            hold.go.set()


def test_uploads_leave_the_job_stores_connections_to_reads(tmp_path: Path) -> None:
    """While another process writes and all of them wait for it."""

    async def run(world: ApiWorld) -> None:
        other = sqlite3.connect(tmp_path / "jobs.sqlite3", isolation_level=None)
        async with world.http() as http:
            path = f"/v1/videos/{(await http.post('/v1/videos', json={'prompt': 'p'})).json()['id']}"
            other.execute("BEGIN IMMEDIATE")
            body = {"bytes": 9, "mime_type": "image/png"}
            asked = [asyncio.create_task(http.post("/v1/uploads", json=body)) for _ in range(20)]
            await until(lambda: world.api.uploads._counting.locked() and len(world.api.files._threads) == STORING)
            assert (await http.get(path)).status_code == 200
            assert world.api.jobs._database.engine.pool.checkedout() == 1, "the one that counts an upload"
            other.execute("ROLLBACK")
            await asyncio.gather(*asked)
        other.close()

    with run_api(tmp_path) as world:
        asyncio.run(run(world))


def test_what_is_held_open_is_counted_while_it_is() -> None:
    held = HeldOpen(1)
    for _ in range(2):
        with held.one(), pytest.raises(Overloaded), held.one():
            pass
    with pytest.raises(Overloaded), HeldOpen(0).one():
        pass


class Queue:
    """The job store as the view of a queue sees it, of which the first looks may hang."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.looks = 0

    def queue(self, _: str) -> list[Waiting]:
        self.looks += 1
        assert self.go.wait(DEADLINE_S)
        return [Waiting("a", 1.0)]

    def working(self, _: str) -> dict[Any, Any]:
        return {}

    lines = working

    def denoising(self, _: str) -> int:
        return 0


def test_a_queue_is_looked_at_by_one_of_many_and_others_take_the_view_there_is() -> None:
    store: Any = Queue()
    view, job = QueueView(store), Job(id="a", model="m", prompt="p", parameters={}, created_at=0.0)
    assert not view.is_fresh(job)
    with ThreadPoolExecutor(8) as callers:
        places = [callers.submit(view.place, job) for _ in range(8)]
        store.go.set()
        assert {each.result(DEADLINE_S).position for each in places} == {1}
        assert store.looks == 1
        assert view.is_fresh(job)
        view._views["m"] = queue_view._View(0.0, {}, 0, 0.0, 1.0, {"a": (7, 0.0)})
        store.go.clear()
        slow = callers.submit(view.place, job)
        until_true(lambda: store.looks == 2, "another looks", DEADLINE_S, 0.001)
        assert view.place(job).position == 7, "what is known while another looks"
        store.go.set()
        assert slow.result(DEADLINE_S).position == 1
