"""Jobs that wait for a denoiser: who is asked about, who is told, and which denoisers take part."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection, ItemsView, Mapping, Sequence

import pytest

from deployments.orchestration import denoiser_pool
from deployments.orchestration.denoiser_pool import LOST_S, DenoiserPool
from deployments.orchestration.replicas import Replicas

PATIENCE_S = 60


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Allocation:
    """Gives these answers, one after another; then none."""

    def __init__(self, *answers: Mapping[str, str], meanwhile: Callable[[], object] = lambda: None) -> None:
        self.answers = list(answers)
        self.meanwhile = meanwhile
        self.asked: list[tuple[str, list[str], list[str]]] = []

    def assign(self, model: str, denoisers: Sequence[str], tokens: Collection[str], /) -> Mapping[str, str]:
        self.asked.append((model, list(denoisers), sorted(tokens)))
        self.meanwhile()
        return self.answers.pop(0) if self.answers else {}


class Answer(dict[str, str]):
    """An answer during whose reading something else happens."""

    on_read: Callable[[], object]

    def items(self) -> ItemsView[str, str]:  # type: ignore[override]
        self.on_read()
        return ItemsView(self)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(denoiser_pool, "POLL_S", 0.0)


def pool_of(allocation: Allocation, clock: Clock | None = None) -> DenoiserPool:
    """Of models `m` and `n` with two denoisers each."""
    pool = DenoiserPool(allocation, {"m": "Denoiser-m", "n": "Denoiser-n"}, lambda: None, clock or Clock())
    pool.replicas = Replicas({"Denoiser-m": ("m1", "m2"), "Denoiser-n": ("n1", "n2"), "Other": ("o",)}, frozenset())
    return pool


async def settle() -> None:
    """Let everything run that does not wait for a thread."""
    for _ in range(20):
        await asyncio.sleep(0)


async def assign(pool: DenoiserPool) -> None:
    await asyncio.wait_for(pool.assign(), PATIENCE_S)
    await settle()


def waiting(pool: DenoiserPool, model: str, token: str) -> asyncio.Task[str]:
    return asyncio.ensure_future(pool.denoiser(model, token))


def test_a_job_waits_until_it_is_assigned_a_denoiser() -> None:
    async def run() -> None:
        allocation = Allocation({}, {"t2": "m1"}, {"t1": "m2"})
        pool = pool_of(allocation)
        first, second = waiting(pool, "m", "t1"), waiting(pool, "m", "t2")
        await settle()
        await assign(pool)
        assert not first.done()
        assert not second.done()
        await assign(pool)
        assert not first.done()
        assert await asyncio.wait_for(second, PATIENCE_S) == "m1"
        await assign(pool)
        assert await asyncio.wait_for(first, PATIENCE_S) == "m2"
        m = ["m1", "m2"]
        assert allocation.asked == [("m", m, ["t1", "t2"]), ("m", m, ["t1", "t2"]), ("m", m, ["t1"])]

    asyncio.run(run())


def test_each_model_has_its_own_jobs_and_denoisers() -> None:
    async def run() -> None:
        allocation = Allocation({"t1": "m1"}, {"t2": "n1"})
        pool = pool_of(allocation)
        jobs = [waiting(pool, model, token) for model, token in (("m", "t1"), ("n", "t2"))]
        await settle()
        await assign(pool)
        assert await asyncio.wait_for(asyncio.gather(*jobs), PATIENCE_S) == ["m1", "n1"]
        assert allocation.asked == [("m", ["m1", "m2"], ["t1"]), ("n", ["n1", "n2"], ["t2"])]

    asyncio.run(run())


def test_what_was_not_asked_for_is_not_assigned() -> None:
    async def run() -> None:
        pool = pool_of(Allocation({"t2": "m1", "t1": "m2"}))
        mine = waiting(pool, "m", "t1")
        await settle()
        await assign(pool)
        assert await asyncio.wait_for(mine, PATIENCE_S) == "m2"
        later = waiting(pool, "m", "t2")
        await settle()
        assert not later.done()
        later.cancel()

    asyncio.run(run())


def test_a_job_gets_the_denoiser_that_was_freed_while_nobody_waited() -> None:
    """All were busy at the last look, then the one job that waited was canceled, and nobody looked any more."""

    async def run() -> None:
        pool = pool_of(Allocation({}, {"t2": "m1"}))
        canceled = waiting(pool, "m", "t1")
        await settle()
        await assign(pool)
        canceled.cancel()
        await settle()
        assigning = asyncio.ensure_future(pool.assign())
        await settle()
        later = waiting(pool, "m", "t2")
        await asyncio.wait_for(assigning, PATIENCE_S)
        assert await asyncio.wait_for(later, PATIENCE_S) == "m1"

    asyncio.run(run())


def test_one_who_leaves_during_a_look_leaves_no_word_that_all_are_busy() -> None:
    async def run() -> None:
        leaves: list[asyncio.Task[str]] = []
        loop = asyncio.get_running_loop()

        def leave() -> None:
            done = threading.Event()
            loop.call_soon_threadsafe(lambda: (leaves[0].cancel(), loop.call_later(0, loop.call_soon, done.set)))
            assert done.wait(PATIENCE_S)

        pool = pool_of(Allocation({}, {"t2": "m1"}, meanwhile=leave))
        leaves.append(waiting(pool, "m", "t1"))
        await settle()
        await assign(pool)
        pool._allocation = Allocation({"t2": "m1"})
        assigning = asyncio.ensure_future(pool.assign())
        await settle()
        later = waiting(pool, "m", "t2")
        await asyncio.wait_for(assigning, PATIENCE_S)
        assert await asyncio.wait_for(later, PATIENCE_S) == "m1"

    asyncio.run(run())


def test_one_more_that_waits_where_all_are_busy_is_no_news(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(denoiser_pool, "POLL_S", 3600.0)

    async def run() -> None:
        allocation = Allocation({}, {"t1": "m1"}, {"t2": "m2"})
        pool = pool_of(allocation)
        first = waiting(pool, "m", "t1")
        await settle()
        await assign(pool)
        second = waiting(pool, "m", "t2")
        await settle()
        assigning = asyncio.ensure_future(pool.assign())
        await settle()
        assert len(allocation.asked) == 1, "no denoiser can have become free for it"
        pool.freed()
        await asyncio.wait_for(assigning, PATIENCE_S)
        assert await asyncio.wait_for(first, PATIENCE_S) == "m1"
        third = waiting(pool, "m", "t3")
        await settle()
        assert not pool._news.is_set(), "and so it is after one was given and another still waits"
        pool.freed()
        await assign(pool)
        assert await asyncio.wait_for(second, PATIENCE_S) == "m2"
        third.cancel()

    asyncio.run(run())


def test_nothing_is_asked_while_nobody_waits() -> None:
    async def run() -> None:
        allocation = Allocation({"t1": "m1"})
        pool = pool_of(allocation)
        assigning = asyncio.ensure_future(pool.assign())
        await settle()
        assert not assigning.done(), "it looks again although nobody waits"
        pool.freed()
        await asyncio.wait_for(assigning, PATIENCE_S)
        assert allocation.asked == []
        job = waiting(pool, "m", "t1")
        await assign(pool)
        assert await asyncio.wait_for(job, PATIENCE_S) == "m1"
        following = asyncio.ensure_future(pool.assign())
        await settle()
        assert not following.done(), "who has a denoiser waits no more"
        following.cancel()

    asyncio.run(run())


def test_nothing_is_asked_while_no_denoiser_takes_calls() -> None:
    async def run() -> None:
        allocation = Allocation({"t1": "m1"})
        pool = pool_of(allocation)
        pool.replicas = Replicas({}, frozenset())
        job = waiting(pool, "m", "t1")
        await settle()
        await assign(pool)
        assert allocation.asked == []
        job.cancel()

    asyncio.run(run())


def test_nothing_is_asked_while_no_more_may_be_rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(denoiser_pool, "POLL_S", 0.01)
    paused = [True, True, False]

    async def run() -> None:
        allocation = Allocation({"t1": "m1"})
        pool = DenoiserPool(allocation, {"m": "Denoiser-m"}, lambda: None, paused=lambda: paused.pop(0))
        pool.replicas = Replicas({"Denoiser-m": ("m1",)}, frozenset())
        job = waiting(pool, "m", "t1")
        await settle()
        for _ in range(2):
            await assign(pool)
            assert allocation.asked == []
        await assign(pool)  # without any news
        assert await asyncio.wait_for(job, PATIENCE_S) == "m1"

    asyncio.run(run())


def test_who_comes_while_the_store_is_asked_is_asked_about_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(denoiser_pool, "POLL_S", 2 * PATIENCE_S)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        jobs: list[asyncio.Task[str]] = []
        allocation = Allocation({}, {"t2": "m1"})
        pool = pool_of(allocation)
        jobs.append(waiting(pool, "m", "t1"))
        await settle()
        allocation.meanwhile = lambda: loop.call_soon_threadsafe(lambda: jobs.append(waiting(pool, "m", "t2")))
        await assign(pool)
        allocation.meanwhile = lambda: None
        await assign(pool)
        assert await asyncio.wait_for(jobs[1], PATIENCE_S) == "m1"
        jobs[0].cancel()

    asyncio.run(run())


def test_a_job_that_is_canceled_while_the_store_is_asked_gets_nothing() -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        allocation = Allocation({"t1": "m1", "t2": "m2"})
        pool = pool_of(allocation)
        leaving, staying = waiting(pool, "m", "t1"), waiting(pool, "m", "t2")
        await settle()
        allocation.meanwhile = lambda: loop.call_soon_threadsafe(leaving.cancel)
        await assign(pool)
        assert leaving.cancelled()
        assert await asyncio.wait_for(staying, PATIENCE_S) == "m2"

    asyncio.run(run())


def test_a_job_that_is_canceled_at_the_last_moment_gets_nothing() -> None:
    async def run() -> None:
        answer = Answer(t1="m1", t2="m2")
        pool = pool_of(Allocation(answer))
        leaving, staying = waiting(pool, "m", "t1"), waiting(pool, "m", "t2")
        answer.on_read = leaving.cancel
        await settle()
        await assign(pool)
        assert leaving.cancelled()
        assert await asyncio.wait_for(staying, PATIENCE_S) == "m2"

    asyncio.run(run())


def test_a_denoiser_found_dead_gets_no_job_for_a_while() -> None:
    clock = Clock()
    pool = pool_of(Allocation(), clock)
    pool.lost(None)  # the call had no denoiser yet
    assert pool.denoisers("m") == ("m1", "m2")
    pool.lost("m1")
    assert pool.denoisers("m") == ("m2",)
    assert pool.denoisers("n") == ("n1", "n2")
    clock.now += LOST_S - 0.1
    assert pool.denoisers("m") == ("m2",)
    clock.now += 0.1
    assert pool.denoisers("m") == ("m1", "m2"), "the controller still says that it runs"


def test_a_denoiser_found_dead_is_not_offered() -> None:
    async def run() -> None:
        allocation = Allocation({"t1": "m2"})
        pool = pool_of(allocation)
        pool.lost("m1")
        job = waiting(pool, "m", "t1")
        await settle()
        await assign(pool)
        assert await asyncio.wait_for(job, PATIENCE_S) == "m2"
        assert allocation.asked == [("m", ["m2"], ["t1"])]

    asyncio.run(run())


def test_a_freed_denoiser_wakes_the_pool_and_the_conductor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(denoiser_pool, "POLL_S", 2 * PATIENCE_S)
    told: list[bool] = []

    async def run() -> None:
        allocation = Allocation({}, {"t1": "m1"})
        pool = DenoiserPool(allocation, {"m": "Denoiser-m"}, lambda: told.append(True))
        pool.replicas = Replicas({"Denoiser-m": ("m1",)}, frozenset())
        job = waiting(pool, "m", "t1")
        await settle()
        await assign(pool)
        pool.freed()
        await assign(pool)
        assert await asyncio.wait_for(job, PATIENCE_S) == "m1"

    asyncio.run(run())
    assert told == [True]
