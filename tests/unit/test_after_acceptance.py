"""A store that goes away once a job is written: the client is told of the job, and not to send its request again."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from deployments.http import known
from deployments.http.queue_view import Place
from jobs import acceptance
from jobs.leases import Leases, Rendered
from jobs.record import Job
from jobs.store import JobStore
from jobs.stored import ResultMetadata
from storage.errors import StorageUnavailable
from tests.unit.api_world import ApiWorld, run_api, until

PROMPT = {"prompt": "p"}


class Outage:
    """A job store that goes away when it is told to: no transaction begins any more."""

    def __init__(self, world: ApiWorld) -> None:
        self.is_on = False
        self.refused = 0
        event.listen(world.api.jobs._database.engine, "begin", self._refuse, insert=True)

    def _refuse(self, *_: object) -> None:
        if self.is_on:
            self.refused += 1
            raise OperationalError("BEGIN", None, sqlite3.OperationalError("unable to open database file"))


@contextmanager
def after_acceptance(work: Callable[[Job], None]) -> Iterator[None]:
    """Do something in the thread that has accepted a job, before anybody is told of it."""

    def accept(*asked: Any, **how: Any) -> Job:
        job = accepting(*asked, **how)
        work(job)
        return job

    accepting = acceptance.accept
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(acceptance, "accept", accept)
        yield


def stored(world: ApiWorld) -> list[Job]:
    jobs: list[Job] = world.api.jobs.page(after=None, limit=9, newest_first=True)[0]
    return jobs


def complete(world: ApiWorld) -> None:
    """Do what conductor and stages would do for the only job."""
    leases = Leases(world.api.jobs._database)
    (job,) = stored(world)
    leases.claim(job.model, owner="c", lease_s=60, max_attempts=3, capacity=1)
    (claimed,) = stored(world)
    assert claimed.lease_token is not None
    assert leases.complete({claimed.lease_token: Rendered({}, ResultMetadata())})


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [("", {}, 200), ("", {"prefer": "wait=1"}, 200), ("/remix", {}, 200), ("/sync", {}, 202)],
    ids=["create", "wait", "remix", "sync"],
)
def test_an_accepted_job_is_answered_while_the_job_store_is_away(
    tmp_path: Path, path: str, headers: dict[str, str], status: int
) -> None:
    async def ask(world: ApiWorld) -> None:
        outage = Outage(world)
        async with world.http() as http:
            source = (await http.post("/v1/videos", json=PROMPT)).json()["id"] if path == "/remix" else ""
            url = f"/v1/videos{'/' if source else ''}{source}{path}"
            world.api.queue._views.clear()
            with after_acceptance(lambda _: setattr(outage, "is_on", True)):
                answer = await http.post(url, json=PROMPT, headers=headers)
        assert outage.refused, "something was looked for in vain"
        outage.is_on = False
        video, job = answer.json(), stored(world)[0]
        assert (answer.status_code, video["id"], video["status"]) == (status, job.id, "queued")
        assert (video["queue_position"], video["eta_seconds"]) == (None, None)
        assert len(stored(world)) == 1 + bool(source)

    with run_api(tmp_path, sync_timeout_s=0.5) as world:
        asyncio.run(ask(world))


def test_an_answer_does_not_wait_long_for_what_it_can_do_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask(world: ApiWorld) -> httpx2.Response:
        on = threading.Event()

        def place(_: Job) -> Place:
            on.wait(3)
            return Place(7, 1.0)

        world.api.queue.place = place
        async with world.http() as http:
            answer = await http.post("/v1/videos", json=PROMPT)
        on.set()
        return answer

    monkeypatch.setattr(known, "AT_MOST_S", 0.2)
    with run_api(tmp_path) as world:
        answer = asyncio.run(ask(world))
    assert (answer.status_code, answer.json()["queue_position"]) == (200, None)


def test_a_conductor_that_cannot_be_told_refuses_no_job(tmp_path: Path) -> None:
    async def ask(world: ApiWorld) -> httpx2.Response:
        async with world.http() as http:
            return await http.post("/v1/videos", json=PROMPT)

    def fail() -> None:
        raise RuntimeError("Serve is going down")

    with run_api(tmp_path) as world:
        world.conductor.remote = fail  # type: ignore[method-assign]
        assert asyncio.run(ask(world)).status_code == 200


def test_a_video_that_is_made_is_answered_though_its_file_cannot_be_had(tmp_path: Path) -> None:
    async def ask(world: ApiWorld) -> httpx2.Response:
        async with world.http() as http:
            asked = asyncio.create_task(http.post("/v1/videos/sync", json=PROMPT))
            await until(lambda: asked.done() or bool(stored(world)))
            await asyncio.to_thread(complete, world)
            return await asked

    def away(_key: str) -> None:
        raise StorageUnavailable("the bucket cannot be reached")

    with run_api(tmp_path) as world:
        world.api.store.url = away
        answer = asyncio.run(ask(world))
    assert (answer.status_code, answer.json()["status"]) == (202, "completed")
    assert answer.json()["urls"]["video"].endswith("/content?variant=video")


def test_a_wait_for_the_end_outlasts_an_outage(tmp_path: Path) -> None:
    """Which the watcher's look and the read after it may meet."""

    async def ask(world: ApiWorld) -> httpx2.Response:
        async with world.http() as http:
            asked = asyncio.create_task(http.post("/v1/videos", json=PROMPT, headers={"prefer": "wait=60"}))
            await until(lambda: asked.done() or bool(stored(world)))
            world.api.waiting._store = FailsOnce(world.api.jobs)
            await asyncio.to_thread(complete, world)
            return await asked

    with run_api(tmp_path) as world:
        answer = asyncio.run(ask(world))
        assert world.api.waiting._store.failed
    assert (answer.status_code, answer.json()["status"]) == (200, "completed")


class FailsOnce:
    """A job store of which one read fails."""

    def __init__(self, jobs: JobStore) -> None:
        self._jobs, self.failed = jobs, False

    def get(self, job_id: str) -> Job | None:
        if not self.failed:
            self.failed = True
            raise OperationalError("SELECT", None, sqlite3.OperationalError("unable to open database file"))
        return self._jobs.get(job_id)


def leave_sync(world: ApiWorld, when: Callable[[], bool], then: Callable[[], None] = lambda: None) -> Job:
    """The job of a client that leaves `/sync`, once it is ended."""

    async def ask() -> None:
        async with world.http() as http:
            asked = asyncio.create_task(http.post("/v1/videos/sync", json=PROMPT))
            await until(lambda: asked.done() or when())
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked
            then()
            await until(lambda: bool(stored(world)) and stored(world)[0].ended)

    asyncio.run(ask())
    (job,) = stored(world)
    return job


def test_the_job_of_a_client_that_leaves_sync_is_canceled(tmp_path: Path) -> None:
    with run_api(tmp_path) as world:
        assert leave_sync(world, lambda: bool(stored(world))).error_code == "canceled"


def test_the_job_of_a_client_that_leaves_sync_while_it_is_accepted_is_canceled(tmp_path: Path) -> None:
    accepting, go_on = threading.Event(), threading.Event()

    def wait(_: Job) -> None:
        accepting.set()
        assert go_on.wait(60)

    with run_api(tmp_path) as world, after_acceptance(wait):
        assert leave_sync(world, accepting.is_set, go_on.set).error_code == "canceled"


def test_a_client_that_can_come_back_with_its_key_keeps_its_job(tmp_path: Path) -> None:
    key = {"idempotency-key": "k"}

    async def leave(world: ApiWorld) -> None:
        async with world.http() as http:
            asked = asyncio.create_task(http.post("/v1/videos/sync", json=PROMPT, headers=key))
            await until(lambda: asked.done() or bool(stored(world)))
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked
            await finish_all()
            again = await http.post("/v1/videos", json=PROMPT, headers=key)
            assert (again.status_code, again.json()["status"]) == (200, "queued")

    with run_api(tmp_path) as world:
        asyncio.run(leave(world))
        assert len(stored(world)) == 1


def test_a_cancel_that_fails_is_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: str) -> None:
        raise ValueError("a column is missing")

    async def leave(world: ApiWorld) -> None:
        async with world.http() as http:
            asked = asyncio.create_task(http.post("/v1/videos/sync", json=PROMPT))
            await until(lambda: asked.done() or bool(stored(world)))
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked
            await finish_all()

    with run_api(tmp_path) as world:
        world.api.jobs.cancel = fail
        asyncio.run(leave(world))
        (job,) = stored(world)
    assert [each.message for each in caplog.records if each.levelname == "ERROR"] == [
        f"the cancellation of {job.id} was not done"
    ]


def test_an_abandoned_job_is_canceled_once_the_job_store_is_back(tmp_path: Path) -> None:
    with run_api(tmp_path) as world:
        cancel, tries = world.api.jobs.cancel, []

        def fail_once(job_id: str) -> Job | None:
            tries.append(job_id)
            if len(tries) == 1:
                raise OperationalError("BEGIN", None, sqlite3.OperationalError("unable to open database file"))
            found: Job | None = cancel(job_id)
            return found

        world.api.jobs.cancel = fail_once
        assert leave_sync(world, lambda: bool(stored(world))).error_code == "canceled"
    assert len(tries) == 2


def test_the_job_of_a_client_that_leaves_create_is_rendered(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whether it waited for the end of the job or for its acceptance."""
    accepting, go_on = threading.Event(), threading.Event()

    def wait(_: Job) -> None:
        accepting.set()
        assert go_on.wait(60)

    async def leave(world: ApiWorld, when: Callable[[], bool], **headers: str) -> None:
        async with world.http() as http:
            asked = asyncio.create_task(http.post("/v1/videos", json=PROMPT, headers=headers))
            await until(lambda: asked.done() or when())
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked
            go_on.set()
            await finish_all()

    with run_api(tmp_path) as world:
        asyncio.run(leave(world, lambda: bool(stored(world)), prefer="wait=60"))
        go_on.clear()
        with after_acceptance(wait):
            asyncio.run(leave(world, accepting.is_set))
        assert [job.ended for job in stored(world)] == [False, False]
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


async def finish_all() -> None:
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(others)


@pytest.mark.parametrize("ends", ["cancel", "delete"])
def test_what_is_ended_stays_ended_though_its_files_cannot_be_deleted(tmp_path: Path, ends: str) -> None:
    async def ask(world: ApiWorld) -> httpx2.Response:
        async with world.http() as http:
            video_id = (await http.post("/v1/videos", json=PROMPT)).json()["id"]
            if ends == "delete":
                return await http.delete(f"/v1/videos/{video_id}")
            return await http.post(f"/v1/videos/{video_id}/cancel")

    def fail(_prefix: str) -> None:
        raise OSError("read-only file system")

    with run_api(tmp_path) as world:
        world.api.store.delete_prefix = fail
        answer = asyncio.run(ask(world))
        assert answer.status_code == 200
        assert [job.error_code for job in stored(world)] == (["canceled"] if ends == "cancel" else [])
