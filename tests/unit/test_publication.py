"""A finished video on its way to a store that is away for a while, with a job store that may be away too."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest
from sqlalchemy.exc import OperationalError

from deployments.stages.messages import Stopped
from deployments.stages.publication import LONGEST_WAIT_S, Publication, files_of
from jobs.record import Job
from pipelines.output import RenderedVideo
from storage.artifacts import ObjectMetadata
from storage.errors import StorageUnavailable
from tests.unit.conftest import new_job

PATIENCE_S = 60
RENDERED = RenderedVideo(mp4=b"mp4", thumbnail=b"thumbnail", spritesheet=b"spritesheet")
NAMES = ["metadata.json", "thumbnail.webp", "spritesheet.webp", "video.mp4"]


@dataclass
class Store:
    """Cannot be used for the puts with these numbers; `during` is what happens while one is at work."""

    away_at: Sequence[int] = ()
    puts: list[str] = field(default_factory=list)
    during: Callable[[], None] = lambda: None

    def put(self, key: str, _data: bytes, _about: ObjectMetadata, /) -> None:
        self.puts.append(key.rpartition("/")[2])
        self.during()
        if len(self.puts) in self.away_at:
            raise StorageUnavailable("the bucket is away")


@dataclass
class Leases:
    """Answers with these, one after another: the seconds until the lease expires, or an error."""

    answers: list[float | Exception | None]
    asked: list[str] = field(default_factory=list)

    def remaining_s(self, token: str, /) -> float | None:
        self.asked.append(token)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def writers() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


class Waits:
    """Waits no time; knows how long it should have waited, and how often the video was put off."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.put_off = 0

    async def sleep(self, seconds: float) -> None:
        self.seconds.append(seconds)
        assert len(self.seconds) < 1000, "it does not give up"

    def count(self) -> None:
        self.put_off += 1


def publication(
    store: Store,
    leases: Leases,
    writers: ThreadPoolExecutor,
    sleep: Callable[[float], Awaitable[None]],
    on_retry: Callable[[], None] = lambda: None,
) -> Publication:
    return Publication(leased(), RENDERED, store, leases, writers, on_retry=on_retry, sleep=sleep)


def leased() -> Job:
    return new_job(lease_token="t1")


async def settle() -> None:
    """Let everything run that does not wait for a time or a thread."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_a_store_that_comes_back_gets_everything_and_the_video_last(writers: ThreadPoolExecutor) -> None:
    store, leases, waits = Store(away_at=(2, 6)), Leases([1.0, 1.0]), Waits()
    asyncio.run(publication(store, leases, writers, waits.sleep, waits.count).run())
    assert store.puts == NAMES[:2] + NAMES + NAMES
    assert leases.asked == ["t1", "t1"], "before each try but the first"
    assert len(waits.seconds) == waits.put_off == 2


def test_the_waits_grow_up_to_a_limit(writers: ThreadPoolExecutor) -> None:
    store, leases, waits = Store(away_at=range(1, 200)), Leases([1.0] * 200), Waits()
    asyncio.run(publication(store, leases, writers, waits.sleep).run())
    assert max(waits.seconds[:2]) <= 2.0
    assert 2.0 < max(waits.seconds) <= LONGEST_WAIT_S


def test_who_has_lost_the_job_while_it_waited_stops(writers: ThreadPoolExecutor) -> None:
    store, waits = Store(away_at=range(1, 100)), Waits()
    with pytest.raises(Stopped):
        asyncio.run(publication(store, Leases([1.0, None]), writers, waits.sleep).run())
    assert store.puts == [NAMES[0]] * 2


def test_a_job_store_that_is_away_does_not_end_the_wait(writers: ThreadPoolExecutor) -> None:
    store, waits = Store(away_at=(1, 2)), Waits()
    leases = Leases([OperationalError("", {}, OSError()), 1.0])
    asyncio.run(publication(store, leases, writers, waits.sleep).run())
    assert store.puts == [NAMES[0]] * 2 + NAMES


def test_what_is_no_outage_is_not_tried_again(writers: ThreadPoolExecutor) -> None:
    def fail() -> None:
        raise ValueError("no such key can be stored")

    store, waits = Store(during=fail), Waits()
    with pytest.raises(ValueError, match="no such key"):
        asyncio.run(publication(store, Leases([]), writers, waits.sleep).run())
    assert (store.puts, waits.seconds) == (NAMES[:1], [])


def test_a_cancel_during_a_wait_ends_it_at_once(writers: ThreadPoolExecutor) -> None:
    store = Store(away_at=(1,))

    async def run() -> None:
        waiting = asyncio.Event()

        async def sleep(_: float) -> None:
            waiting.set()
            await asyncio.Event().wait()

        running = asyncio.ensure_future(publication(store, Leases([]), writers, sleep).run())
        await asyncio.wait_for(waiting.wait(), PATIENCE_S)
        running.cancel()
        await asyncio.wait([running], timeout=PATIENCE_S)
        assert running.cancelled()

    asyncio.run(run())
    assert store.puts == NAMES[:1]


def test_a_cancel_during_a_write_waits_until_everything_is_written(writers: ThreadPoolExecutor) -> None:
    begun, goes_on = threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        assert goes_on.wait(PATIENCE_S)

    store = Store(during=hold)

    async def run() -> None:
        running = asyncio.ensure_future(publication(store, Leases([]), writers, Waits().sleep).run())
        assert await asyncio.to_thread(begun.wait, PATIENCE_S)
        for _ in range(2):
            running.cancel()
            await settle()
        assert not running.done()
        assert store.puts == NAMES[:1]
        goes_on.set()
        await asyncio.wait([running], timeout=PATIENCE_S)
        assert running.cancelled()
        assert store.puts == NAMES

    asyncio.run(run())


def test_the_files_say_what_they_are() -> None:
    job = new_job(id="j1", model="m1", prompt="a fox", expires_in_s=86400.0, user="u1", folder="2024/j1")
    files = files_of(job, RENDERED, now=0.0)
    assert [file.key for file in files] == [f"videos/2024/j1/{name}" for name in NAMES]
    assert [file.data for file in files[1:]] == [b"thumbnail", b"spritesheet", b"mp4"]
    tags = {"job": "j1", "model": "m1", "expires": "1970-01-02T00:00:00+00:00", "keep": "1d"}
    assert [file.about.tags for file in files] == [tags] * 4
    names = [file.about.file_name for file in files]
    assert None not in names
    assert len(set(names)) == 4
    metadata = json.loads(files[0].data)
    assert (metadata["id"], metadata["prompt"], metadata["user"]) == ("j1", "a fox", "u1")


@pytest.mark.parametrize(
    ("expires_in_s", "tags"), [(None, set()), (86400.0 * 30, {"expires", "keep"}), (86400.0 * 999, {"expires"})]
)
def test_only_files_that_expire_have_the_tags_for_it(expires_in_s: float | None, tags: set[str]) -> None:
    files = files_of(new_job(expires_in_s=expires_in_s), RENDERED, now=0.0)
    assert all(set(file.about.tags) == {"job", "model"} | tags for file in files)


def test_what_a_request_did_not_want_is_not_written() -> None:
    files = files_of(new_job(), RenderedVideo(b"mp4", None, None), now=0.0)
    assert [file.key.rpartition("/")[2] for file in files] == ["metadata.json", "video.mp4"]
