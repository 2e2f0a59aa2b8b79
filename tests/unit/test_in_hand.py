"""The requests with bodies of one replica: what counts, from when and until when."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from starlette.datastructures import Headers

from deployments.http import arriving, submission
from deployments.http.errors import Overloaded
from deployments.http.in_hand import READ_PER_WORKED_ON, InHand, in_threads, reserve
from deployments.http.sizes import declared_bytes
from tests.harness.data_urls import EXAMPLE as PICTURE
from tests.unit.api_world import ApiWorld, run_api, until

DEADLINE_S = 60.0


def length(size: int | None) -> Headers:
    return Headers({"transfer-encoding": "chunked"} if size is None else {"content-length": str(size)})


def test_bodies_are_bounded_in_bytes() -> None:
    in_hand = InHand(10, 200_000)
    with in_hand.enter(length(150_000)), in_hand.enter(length(150_000)) as other:  # nothing is here yet
        reserve(150_000)
        with pytest.raises(Overloaded), in_hand.enter(length(100_000)):
            pass
        with in_hand.enter(length(65_000)), pytest.raises(Overloaded):
            reserve(65_000)
        with in_hand.enter(length(None)), pytest.raises(Overloaded):
            reserve(65_000)
        other.reserve(150_000)  # one alone may have any size, else it could never be accepted
    assert (in_hand.reading, in_hand.bytes) == (0, 0)


@pytest.mark.parametrize(
    ("headers", "declared"),
    [
        ({}, 0), ({"transfer-encoding": "chunked"}, None), ({"content-length": "12"}, 12),
        ({"content-length": "0" * 5000 + "5"}, 5), ({"content-length": "9" * 5000}, 10**18),
        ({"content-length": "x"}, None), ({"content-length": "²"}, None), ({"content-length": "000"}, 0),
    ],
)  # fmt: skip
def test_what_a_body_declares(headers: dict[str, str], declared: int | None) -> None:
    assert declared_bytes(Headers(headers)) == declared


def test_those_who_send_slowly_keep_nobody_from_being_worked_on(tmp_path: Path) -> None:
    most = 2

    async def run(world: ApiWorld) -> None:
        async def trickles() -> Any:
            await asyncio.Event().wait()

        sent = [
            asyncio.create_task(world.ask("PUT", "/v1/uploads/upload_x", trickles, content_length="33554432"))
            for _ in range(most * READ_PER_WORKED_ON)
        ]
        await until(lambda: world.api.in_hand.reading == len(sent))
        assert (await world.ask("PUT", "/v1/uploads/upload_x", trickles, content_length="33554432"))[0] == 503
        async with world.http() as http:
            assert (await http.post("/v1/videos", json={"prompt": "p"})).status_code == 200
            for each in sent:
                each.cancel()
            await asyncio.wait(sent)
        assert (world.api.in_hand.reading, world.api.in_hand.bytes) == (0, 0)

    with run_api(tmp_path, max_creates_at_once=most) as world:
        asyncio.run(run(world))


@pytest.mark.parametrize(("silence_s", "longest_s"), [(0.05, 60.0), (60.0, 0.05)], ids=["silent", "too long"])
def test_a_body_that_does_not_arrive_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silence_s: float, longest_s: float
) -> None:
    monkeypatch.setattr(arriving, "SILENCE_S", silence_s)
    monkeypatch.setattr(arriving, "LONGEST_S", longest_s)

    async def run(world: ApiWorld) -> int:
        async def trickles() -> Any:
            if longest_s < 1:
                await asyncio.sleep(0.01)
                return {"type": "http.request", "body": b" ", "more_body": True}
            return await asyncio.Event().wait()

        given = {"content_type": "application/json", "content_length": "1000000"}
        async with asyncio.timeout(DEADLINE_S):
            status, _ = await world.ask("POST", "/v1/videos", trickles, **given)
        return status

    with run_api(tmp_path) as world:
        assert asyncio.run(run(world)) == 408
        assert (world.api.in_hand.reading, world.api.in_hand.bytes) == (0, 0)


def test_a_request_stays_in_hand_until_its_threads_are_done_though_its_client_has_left() -> None:
    go = threading.Event()
    in_hand = InHand(2, 1000)

    async def work(threads: ThreadPoolExecutor) -> None:
        with in_hand.enter(length(100)) as place:
            place.read()
            reserve(150)
            await in_threads(threads, go.wait, DEADLINE_S)

    async def run(threads: ThreadPoolExecutor) -> None:
        both = [asyncio.create_task(work(threads)) for _ in range(2)]  # of which one waits for the only thread
        await until(lambda: in_hand.bytes == 300)
        for each in both:
            each.cancel()
        await asyncio.wait(both)
        assert (in_hand.working, in_hand.bytes) == (2, 300)
        with pytest.raises(Overloaded):
            await work(threads)
        go.set()
        await until(lambda: (in_hand.working, in_hand.bytes) == (0, 0))

    try:
        with ThreadPoolExecutor(1) as threads:
            asyncio.run(run(threads))
    finally:
        go.set()


def test_what_is_fetched_counts_before_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submission, "MOST_HAVE", 1000)
    fetching = 0

    async def fetch(_url: str, _most: int) -> bytes:
        nonlocal fetching
        fetching += 1
        await asyncio.Event().wait()
        return b""

    async def run(world: ApiWorld) -> None:
        world.api.submission._outbound.fetch = fetch
        create = {"prompt": "p", "input_reference": "http://127.0.0.1/x.png"}
        async with world.http() as http:
            asked = [asyncio.create_task(http.post("/v1/videos", json=create)) for _ in range(5)]
            await until(lambda: sum(each.done() for each in asked) == 3)
            assert {each.result().status_code for each in asked if each.done()} == {503}
            assert fetching == 2
            for each in asked:
                each.cancel()
            await asyncio.wait(asked)

    with run_api(tmp_path, max_body_bytes=1000, max_bytes_at_once=2500, outbound_allow=("127.0.0.1",)) as world:
        asyncio.run(run(world))


def test_what_was_expected_counts_as_what_came() -> None:
    in_hand = InHand(2, 1000)
    with in_hand.enter(length(10)) as place:
        place.read()
        reserve(800)
        reserve(10 - 800)
        with in_hand.enter(length(10)) as other:
            other.read()
            reserve(900)
            assert in_hand.bytes == 910
    assert in_hand.bytes == 0


def test_pictures_leave_room_for_what_has_none() -> None:
    in_hand = InHand(4, 1000)
    with ExitStack() as inside:
        for _ in range(2):
            inside.enter_context(in_hand.enter(length(10))).read(slow=True)
        with in_hand.enter(length(10)) as third, pytest.raises(Overloaded):
            third.read(slow=True)
        for _ in range(2):
            inside.enter_context(in_hand.enter(length(10))).read()
        assert (in_hand.working, in_hand.slow) == (4, 2)
    assert (in_hand.working, in_hand.slow) == (0, 0)


def test_a_create_with_a_picture_is_slow(tmp_path: Path) -> None:
    """Whether it sends it, names it, or is a remix of a video that has one."""
    counted: list[int] = []

    async def run(world: ApiWorld) -> None:
        accept = world.api.submission.accept

        async def look(*given: Any) -> Any:
            counted.append(world.api.in_hand.slow)
            return await accept(*given)

        world.api.submission.accept = look
        async with world.http() as http:
            with_picture = (await http.post("/v1/videos", json={"prompt": "p", "input_reference": PICTURE})).json()
            assert (await http.post("/v1/videos", json={"prompt": "p"})).status_code == 200
            assert (await http.post(f"/v1/videos/{with_picture['id']}/remix", json={"prompt": "q"})).status_code == 200

    with run_api(tmp_path) as world:
        asyncio.run(run(world))
    assert counted == [1, 0, 1]


def test_work_that_begins_after_its_request_has_gone_counts_for_nothing() -> None:
    in_hand, late = InHand(1, 1000), Future[None]()
    with in_hand.enter(length(10)) as place:
        place.read()
    place.follow(late)
    late.set_result(None)
    assert (in_hand.working, in_hand.bytes) == (0, 0)
