"""What a conductor writes of its many jobs: when it is written, and what goes into one write."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping

import pytest
from sqlalchemy.exc import OperationalError

from deployments.orchestration.write_batcher import WriteBatcher

PATIENCE_S = 60


class Store:
    """Takes one write at a time, when it is let; knows the leases that begin with `ok`."""

    def __init__(self) -> None:
        self.writes: list[dict[str, int]] = []
        self.begun = threading.Semaphore(0)
        self.let = threading.Semaphore(0)

    def write(self, values: Mapping[str, int]) -> set[str]:
        self.writes.append(dict(values))
        self.begun.release()
        assert self.let.acquire(timeout=PATIENCE_S)
        if -1 in values.values():
            raise ValueError("this value cannot be written")
        return {token for token in values if token.startswith("ok")}


@pytest.fixture
def store() -> Store:
    return Store()


async def begun(store: Store) -> None:
    assert await asyncio.to_thread(store.begun.acquire, timeout=PATIENCE_S)


def test_what_comes_during_a_write_goes_together_in_the_next(store: Store) -> None:
    async def run() -> None:
        batcher = WriteBatcher(store.write)
        first = asyncio.create_task(batcher.written("ok1", 1))
        await begun(store)
        others = [asyncio.create_task(batcher.written(f"ok{place}", place)) for place in (2, 3)]
        lost = asyncio.create_task(batcher.written("gone", 4))
        await asyncio.sleep(0)
        store.let.release(2)
        assert await asyncio.gather(first, *others, lost) == [True, True, True, False]

    asyncio.run(run())
    assert store.writes == [{"ok1": 1}, {"ok2": 2, "ok3": 3, "gone": 4}]


def test_what_nobody_waits_for_gathers_and_the_latest_counts(store: Store) -> None:
    told: list[str] = []

    async def run() -> None:
        batcher = WriteBatcher(store.write, on_lost=told.append, pause_s=60)
        store.let.release(3)
        batcher.put("ok1", 1)
        await begun(store)
        batcher.put("ok1", 2)
        batcher.put("ok1", 3)
        batcher.put("gone", 1)
        assert await asyncio.wait_for(batcher.written("ok2", 9), PATIENCE_S), "and who waits does not wait for it"

    asyncio.run(run())
    assert store.writes == [{"ok1": 1}, {"ok1": 3, "gone": 1, "ok2": 9}]
    assert told == ["gone"]


def test_what_is_dropped_is_not_written_unless_somebody_waits_for_it(store: Store) -> None:
    async def run() -> None:
        batcher = WriteBatcher(store.write)
        batcher.put("ok1", 1)
        await begun(store)
        batcher.put("ok2", 2)
        waits = asyncio.create_task(batcher.written("ok3", 3))
        await asyncio.sleep(0)
        for token in ("ok1", "ok2", "ok3", "ok4"):
            batcher.drop(token)
        store.let.release(2)
        assert await asyncio.wait_for(waits, PATIENCE_S)

    asyncio.run(run())
    assert store.writes == [{"ok1": 1}, {"ok3": 3}]


def test_what_is_wrong_with_one_is_no_matter_of_the_others(store: Store) -> None:
    async def run() -> None:
        batcher = WriteBatcher(store.write)
        first = asyncio.create_task(batcher.written("ok1", 1))
        await begun(store)
        good, bad = (asyncio.create_task(batcher.written(token, value)) for token, value in (("ok2", 2), ("ok3", -1)))
        await asyncio.sleep(0)
        store.let.release(4)
        assert await first
        assert await good
        with pytest.raises(ValueError, match="cannot be written"):
            await bad

    asyncio.run(run())


def test_a_store_that_cannot_be_reached_is_asked_again_until_the_conductor_stops() -> None:
    tries: list[int] = []

    def write(values: Mapping[str, int]) -> set[str]:
        tries.append(len(tries))
        if len(tries) < 3:
            raise OperationalError("", {}, OSError())
        return set(values)

    async def run(stopped: bool) -> bool:
        return await WriteBatcher(write, stopped=lambda: stopped).written("ok1", 1)

    assert asyncio.run(run(False))
    assert len(tries) == 3
    tries.clear()
    with pytest.raises(OperationalError):
        asyncio.run(run(True))
    assert len(tries) == 1


def test_one_who_has_gone_keeps_nobody_waiting(store: Store) -> None:
    async def run() -> None:
        batcher = WriteBatcher(store.write)
        gone = asyncio.create_task(batcher.written("ok1", 1))
        await begun(store)
        gone.cancel()
        other = asyncio.create_task(batcher.written("ok2", 2))
        await asyncio.sleep(0)
        store.let.release(2)
        assert await other

    asyncio.run(run())


def test_all_who_wait_for_one_lease_get_the_answer_of_its_latest_value(store: Store) -> None:
    told: list[str] = []

    async def run() -> list[bool]:
        batcher = WriteBatcher(store.write, on_lost=told.append)
        store.let.release()
        waiting = (batcher.written(token, value) for token, value in (("ok1", 1), ("gone", 1), ("ok1", 2), ("gone", 2)))
        return await asyncio.wait_for(asyncio.gather(*waiting), PATIENCE_S)

    assert asyncio.run(run()) == [True, False, True, False]
    assert store.writes == [{"ok1": 2, "gone": 2}]
    assert told == [], "who waits learns it"


def test_a_faulty_value_is_told_to_all_who_wait_for_it_and_to_nobody_else(store: Store) -> None:
    async def run() -> list[bool | BaseException]:
        batcher = WriteBatcher(store.write)
        store.let.release(3)
        waiting = (batcher.written(token, value) for token, value in (("ok1", 1), ("ok2", 1), ("ok1", -1)))
        return await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), PATIENCE_S)

    first, good, latest = asyncio.run(run())
    assert good is True
    assert isinstance(latest, ValueError)
    assert first is latest
    assert store.writes == [{"ok1": -1, "ok2": 1}, {"ok1": -1}, {"ok2": 1}]


@pytest.mark.parametrize(("value", "answer"), [(2, "True"), (-1, "this value cannot be written")])
def test_one_of_two_who_wait_for_a_lease_may_leave(store: Store, value: int, answer: str) -> None:
    async def run() -> bool | BaseException:
        batcher = WriteBatcher(store.write)
        leaving, staying = (asyncio.create_task(batcher.written("ok1", each)) for each in (1, value))
        await begun(store)
        leaving.cancel()
        store.let.release()
        await asyncio.wait([staying], timeout=PATIENCE_S)
        return staying.exception() or staying.result()

    assert str(asyncio.run(run())) == answer
