"""What a probe learns while the one thread that looks is busy, hangs or fails."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from deployments.http.cached import Cached, Known
from deployments.http.readiness import STALE_S, Readiness, answer
from tests.unit.api_world import until

PATIENCE_S = 30.0


class Source:
    """What is looked at: it may hang or fail."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.answers.set()
        self.looks = 0
        self.error: Exception | None = None

    def look(self) -> int:
        self.looks += 1
        assert self.answers.wait(PATIENCE_S)
        if self.error is not None:
            raise self.error
        return self.looks


@pytest.fixture
def source() -> Iterator[Source]:
    source = Source()
    yield source
    source.answers.set()


def test_a_flood_costs_one_look(source: Source) -> None:
    async def ask() -> set[int]:
        cached = Cached(source.look, "x", fresh_s=3600.0)
        first = await asyncio.gather(*(cached.get() for _ in range(100)))
        later = [await cached.get() for _ in range(100)]
        return {known.value for known in (*first, *later) if known is not None}

    assert asyncio.run(ask()) == {1}
    assert source.looks == 1


def test_what_is_not_fresh_is_looked_at_again(source: Source) -> None:
    async def ask() -> list[int | None]:
        cached = Cached(source.look, "x", fresh_s=0.0)
        return [None if (known := await cached.get()) is None else known.value for _ in range(2)]

    assert asyncio.run(ask()) == [1, 2]


def test_a_look_that_hangs_holds_up_nobody_and_the_age_of_what_is_known_grows(source: Source) -> None:
    async def ask() -> None:
        loop = asyncio.get_running_loop()
        cached = Cached(source.look, "x", fresh_s=0.0, patience_s=0.05)
        assert await cached.get() is not None
        source.answers.clear()
        ages = []
        async with asyncio.timeout(PATIENCE_S / 2):
            for known in await asyncio.gather(*(cached.get() for _ in range(50))):
                assert known is not None
                assert known.value == 1
                ages.append(known.age_s)
            began_at = loop.time()
            known = await cached.get()
            assert loop.time() - began_at < PATIENCE_S / 4, "it has hung for so long already: nobody waits for it"
            assert known is not None
            assert known.age_s >= max(ages) >= 0.05
            assert source.looks == 2, "one thread hangs, however many ask"
            source.answers.set()
            await until(lambda: source.looks == 2 and cached._looking is None)
            known = await cached.get()
            assert known is not None
            assert known.value > 1, "once it has answered, what it said is known"

    asyncio.run(ask())


def test_a_first_look_that_hangs_leaves_nothing_known(source: Source) -> None:
    source.answers.clear()

    async def ask() -> Known[int] | None:
        known = await Cached(source.look, "x", patience_s=0.05).get()
        source.answers.set()
        return known

    assert asyncio.run(ask()) is None


def test_a_look_that_fails_leaves_what_was_known_and_is_not_repeated_at_once(source: Source) -> None:
    async def ask() -> None:
        cached = Cached(source.look, "x", fresh_s=0.0)
        await cached.get()
        source.error = RuntimeError("away")
        known = await cached.get()
        assert known is not None
        assert known.value == 1
        patient = Cached(source.look, "x", fresh_s=3600.0)
        assert [await patient.get() for _ in range(20)] == [None] * 20

    asyncio.run(ask())
    assert source.looks == 3


READY, LOADING = Readiness((), {}, {}, 1), Readiness(("Denoiser-a",), {"Denoiser-a": "broken"}, {}, 1)


def test_readiness_says_what_is_known_and_for_how_long_nobody_has_answered() -> None:
    assert answer(Known(READY, 0.5)) == (200, {"status": "ready", "waiting_for": (), "cannot_start": {}})
    status, body = answer(Known(LOADING, 0.5))
    assert (status, body["status"], body["waiting_for"]) == (503, "loading", ("Denoiser-a",))
    for late in (Known(READY, STALE_S + 1), Known(Readiness((), {}, {}, 1, store_silent_s=STALE_S), 1.0)):
        status, body = answer(late)
        assert (status, body["status"], body["last_status"]) == (503, "unknown", "ready")
        assert body["age_s"] == pytest.approx(STALE_S + 1)
    status, body = answer(Known(LOADING, 100.0))
    assert (body["last_status"], body["cannot_start"]) == ("loading", {"Denoiser-a": "broken"})
    assert answer(None) == (503, {"status": "unknown", "waiting_for": ["application"], "cannot_start": {}})
