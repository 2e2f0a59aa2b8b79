"""Waiting for a job's changes without a service: one query for many, outages, and the places in a queue."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import pytest
from sqlalchemy.exc import OperationalError

from deployments.http import queue_view
from deployments.http.overload import HeldOpen, Lane
from deployments.http.prefer import parse_prefer
from deployments.http.queue_view import Place, QueueView
from deployments.http.sse import EventStream, last_seen
from deployments.http.watcher import Watcher
from jobs.priority import Priority
from pipelines.errors import InvalidRequest
from tests.unit.conftest import Jobs


def test_many_who_wait_cost_one_query() -> None:
    asked: list[set[str]] = []
    versions = {"a": 1, "b": 1}

    def look(ids: Collection[str]) -> dict[str, int]:
        asked.append(set(ids))
        if len(asked) == 2:
            raise OperationalError("", None, Exception())  # an outage: they wait on
        if len(asked) == 3:
            versions.update(a=2)
            del versions["b"]
        return dict(versions)

    async def wait() -> list[int | None]:
        watcher = Watcher(look)
        return list(await asyncio.gather(*(watcher.changed(each, 1) for each in "aab")))

    assert asyncio.run(wait()) == [2, 2, None]
    assert asked == [{"a", "b"}] * 3


def test_one_who_leaves_does_not_disturb_the_others() -> None:
    looks = 0

    def look(ids: Collection[str]) -> dict[str, int]:
        nonlocal looks
        looks += 1
        return dict.fromkeys(ids, 1 if looks == 1 else 2)

    async def wait() -> int | None:
        watcher = Watcher(look)
        leaving = asyncio.create_task(watcher.changed("a", 1))
        staying = asyncio.create_task(watcher.changed("a", 1))
        await asyncio.sleep(0)
        leaving.cancel()
        return await staying

    assert asyncio.run(wait()) == 2


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None), ("", None), ("respond-async", None), ("wait=10", 10), ("wait=9999999", 60), ("wait=", None),
        ('respond-async, wait="5"', 5), ("await=5", None), ("handling=strict; wait=7", 7), ("wait=-1", None),
    ],
)  # fmt: skip
def test_prefer_wait(header: str | None, seconds: float | None) -> None:
    assert parse_prefer(header, 60) == seconds


def test_last_event_id() -> None:
    assert [last_seen(header) for header in (None, "", "0", "12")] == [None, None, 0, 12]
    for wrong in ("x", "-1", "1.5", "²", "1" * 11):
        with pytest.raises(InvalidRequest):
            last_seen(wrong)


def test_one_who_has_seen_what_was_never_sent_begins_anew_and_sees_the_end(jobs: Jobs) -> None:
    job = jobs.accept()

    async def follow(seen: int) -> list[str]:
        held_open = HeldOpen(1)
        stream = EventStream(jobs.store, Watcher(jobs.store.versions), Lane("streams", 1, 1), held_open)
        names = []
        async with asyncio.timeout(60):
            async for event in stream.of(job, seen, lambda now: {"id": now.id}).body_iterator:
                assert isinstance(event, bytes)
                names.append(event.decode().partition("\n")[0])
                await asyncio.to_thread(jobs.store.cancel, job.id)
        return names

    assert asyncio.run(follow(job.version + 1)) == ["event: video.queued", "event: video.canceled"]
    assert asyncio.run(follow(job.version)) == ["event: video.canceled"]


def test_a_place_in_the_queue_is_its_order_and_a_time_once_costs_are_known(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_view, "FRESH_S", 3600.0)  # a view lasts as long as this test, wherever it runs
    work = {"text_encode": 1.0, "denoise": 1.0, "decode": 1.0, "publish": 1.0}
    first = jobs.accept(work=work)
    view = QueueView(jobs.store)
    assert view.place(first) == Place(1, None), "no time before anything was measured"
    jobs.complete(jobs.take()[1], {"text_encode": 1.0, "denoise": 7.0, "decode": 2.0, "publish": 0.2})
    low, high = jobs.accept(work=work, priority=Priority.LOW), jobs.accept(work=work, priority=Priority.HIGH)
    view = QueueView(jobs.store)
    assert [view.place(each).position for each in (high, low)] == [1, 2]
    assert view.place(high).eta_s == pytest.approx(10.2, abs=0.1)
    assert view.place(low).eta_s == pytest.approx(20.2, abs=0.1)
    later = jobs.accept(work=work)
    assert view.place(later).position == 3, "behind all that was known a moment ago"
    assert view.place(jobs.get(first)) == Place()
