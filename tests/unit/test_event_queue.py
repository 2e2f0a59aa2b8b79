"""The small events of a call, from the worker thread to the event loop, by a clock that stands still."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future

import pytest

from deployments.stages.event_queue import EventQueue
from deployments.stages.messages import Ending, Progress, Started

PATIENCE_S = 60


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


async def settle() -> None:
    """Let everything run that does not wait for a time or a thread."""
    for _ in range(10):
        await asyncio.sleep(0)


async def next_of(queue: EventQueue) -> Started | Progress | Ending:
    return await asyncio.wait_for(anext(queue), PATIENCE_S)


def test_the_latest_progress_is_passed_on_when_its_time_has_come() -> None:
    async def run() -> None:
        clock = Clock()
        queue = EventQueue(clock, progress_every_s=5.0)
        queue.put(Progress(1, 9))
        assert await next_of(queue) == Progress(1, 9), "the first one at once"
        following = asyncio.ensure_future(next_of(queue))
        for step in (2, 3):
            queue.put(Progress(step, 9))
            await settle()
        clock.now += 4.9
        queue.put(Progress(4, 9))
        await settle()
        assert not following.done()
        clock.now += 0.1
        queue.put(Progress(5, 9))
        assert await following == Progress(5, 9)
        queue.put(Progress(6, 9))
        await settle()
        clock.now += 5.0
        assert await next_of(queue) == Progress(6, 9), "the time counts from the last one that was passed on"

    asyncio.run(run())


def test_a_progress_that_is_kept_back_needs_no_later_event() -> None:
    async def run() -> None:
        queue = EventQueue(progress_every_s=0.01)
        queue.put(Progress(1, 9))
        await next_of(queue)
        queue.put(Progress(2, 9))
        assert await next_of(queue) == Progress(2, 9)

    asyncio.run(run())


def test_an_ending_overtakes_what_is_kept_back_and_no_progress_follows_it() -> None:
    async def run() -> None:
        clock = Clock()
        queue = EventQueue(clock)
        queue.put(Started("r1"))
        queue.put(Progress(1, 9))
        following = asyncio.ensure_future(next_of(queue))
        await settle()
        assert not following.done()
        queue.put(Ending())
        assert await following == Started("r1")
        assert await next_of(queue) == Ending()
        queue.put(Progress(9, 9))
        clock.now += 60
        queue.close()
        with pytest.raises(StopAsyncIteration):
            await next_of(queue)

    asyncio.run(run())


def test_a_start_is_passed_on_after_a_moment_and_before_any_progress() -> None:
    async def run() -> None:
        clock = Clock()
        queue = EventQueue(clock, progress_every_s=5.0, started_after_s=0.5)
        queue.put(Started("r1"))
        for step in range(9):
            queue.put(Progress(step, 9))
        following = asyncio.ensure_future(next_of(queue))
        await settle()
        clock.now += 0.4
        queue.put(Progress(9, 9))
        await settle()
        assert not following.done()
        clock.now += 0.1
        assert await following == Started("r1")
        assert await next_of(queue) == Progress(9, 9)

    asyncio.run(run())


def test_of_a_call_that_ends_in_a_moment_there_is_nothing_to_say() -> None:
    async def run() -> None:
        queue = EventQueue(Clock())
        queue.put(Started("r1"))
        queue.put(Progress(1, 9))
        await settle()
        queue.close()
        with pytest.raises(StopAsyncIteration):
            await next_of(queue)

    asyncio.run(run())


def test_what_was_put_before_the_end_ends_before_it() -> None:
    async def run() -> None:
        queue = EventQueue(Clock())
        queue.put(Started("r1"))
        queue.put(Ending())
        queue.close()
        assert [await next_of(queue) for _ in range(2)] == [Started("r1"), Ending()]
        with pytest.raises(StopAsyncIteration):
            await next_of(queue)

    asyncio.run(run())


def test_who_waits_learns_that_there_is_no_more() -> None:
    async def run() -> None:
        queue = EventQueue(Clock())
        following = asyncio.ensure_future(next_of(queue))
        await settle()
        queue.close()
        with pytest.raises(StopAsyncIteration):
            await following

    asyncio.run(run())


def test_another_thread_wakes_the_loop() -> None:
    queues: Future[EventQueue] = Future()
    received: Future[Started | Progress | Ending] = Future()

    async def read() -> None:
        queue = EventQueue(Clock())
        following = asyncio.ensure_future(next_of(queue))
        await settle()
        queues.set_result(queue)
        received.set_result(await following)

    # The debug mode forbids other threads whatever would not wake the loop.
    reader = threading.Thread(target=lambda: asyncio.run(read(), debug=True), daemon=True)
    reader.start()
    queues.result(PATIENCE_S).put(Ending())
    assert received.result(PATIENCE_S) == Ending()
    reader.join(PATIENCE_S)
