"""One worker thread and its stream of events, without Ray."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import pytest

from deployments.stages import worker as worker_module
from deployments.stages.event_queue import EventQueue
from deployments.stages.messages import Ending, Finished, Progress, Started, Stopped, packed, unpacked
from deployments.stages.worker import Control, Worker

PATIENCE_S = 60


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "this_replica", lambda: "r1")


def one_progress_in_an_hour() -> EventQueue:
    """So that how fast this machine is does not matter."""
    return EventQueue(progress_every_s=3600, started_after_s=0)


async def listen(worker: Worker, work: Callable[[Control], Any], seen: list[Any]) -> None:
    async with asyncio.timeout(PATIENCE_S), aclosing(worker.stream(work)) as items:
        async for item in items:
            seen.append(unpacked(item) if isinstance(item, bytes) else item)  # noqa: PERF401 others look meanwhile


def test_everything_comes_in_order() -> None:
    def work(control: Control) -> str:
        for step in range(50):
            control.step(step, 50)
        control.ending()
        return "video"

    seen: list[Any] = []
    asyncio.run(listen(Worker(60, one_progress_in_an_hour), work, seen))
    *progress, ending, finished, value = seen[1:]
    assert (seen[0], ending, value) == (Started("r1"), Ending(), "video")
    assert isinstance(finished, Finished)
    assert all(isinstance(each, Progress) for each in progress)
    assert len(progress) <= 1


def test_what_is_ending_is_told_at_once() -> None:
    told = threading.Event()

    def work(control: Control) -> None:
        control.step(1, 3)
        control.step(2, 3)  # which is kept back
        control.ending()
        assert told.wait(PATIENCE_S), "it waited for the progress"

    async def run() -> None:
        worker = Worker(60, one_progress_in_an_hour)
        async with asyncio.timeout(PATIENCE_S), aclosing(worker.stream(work)) as items:
            async for item in items:
                if item == packed(Ending()):
                    told.set()

    asyncio.run(run())


def test_the_next_call_starts_when_the_first_is_done_and_may_leave_before() -> None:
    worker, begun, goes_on = Worker(60), threading.Event(), threading.Event()
    order: list[str] = []

    def first(_: Control) -> str:
        begun.set()
        assert goes_on.wait(PATIENCE_S)
        order.append("the first ends")
        return "first"

    def following(_: Control) -> str:
        order.append("the next begins")
        return "next"

    async def run() -> tuple[list[Any], list[Any], list[Any]]:
        seen: tuple[list[Any], list[Any], list[Any]] = ([], [], [])
        calls = [asyncio.create_task(listen(worker, first, seen[0]))]
        assert await asyncio.to_thread(begun.wait, PATIENCE_S)
        calls += [asyncio.create_task(listen(worker, following, each)) for each in seen[1:]]
        await asyncio.sleep(0)  # both are in the queue
        calls[1].cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(calls[1], PATIENCE_S)  # not after the first
        assert not calls[0].done()
        goes_on.set()
        await asyncio.gather(calls[0], calls[2])
        return seen

    seen = asyncio.run(run())
    assert order == ["the first ends", "the next begins"]
    assert seen[0][-1] == "first"
    assert seen[1] == []
    assert seen[2][-1] == "next"


def test_a_canceled_call_ends_when_its_thread_has() -> None:
    worker, begun = Worker(60), threading.Event()
    steps: list[int] = []

    def work(control: Control) -> None:
        try:
            while True:
                control.step(len(steps), 1000)
                steps.append(len(steps))
                begun.set()
                threading.Event().wait(0.01)
        except Stopped:
            steps.append(-1)
            raise

    async def run() -> None:
        seen: list[Any] = []
        call = asyncio.create_task(listen(worker, work, seen))
        assert await asyncio.to_thread(begun.wait, PATIENCE_S)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert steps[-1] == -1

    asyncio.run(run())
