"""The life of a job, and a store that several conductors share."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from jobs.lifecycle import ENDED, PROGRESS, Leg, Status, before, progress_at
from jobs.record import Job, new_job_id
from jobs.store import LONGEST_RETRY_DELAY_S, JobStore, retry_delay_s


def job(**fields: object) -> Job:
    values: dict[str, object] = {
        "id": new_job_id(), "model": "m", "prompt": "p", "parameters": {"seed": 1}, "created_at": time.time(), **fields,
    }  # fmt: skip
    return Job(**values)  # type: ignore[arg-type]


@pytest.fixture
def store(database: str) -> Iterator[JobStore]:
    with closing(JobStore(database)) as store:
        yield store


def claim(store: JobStore, lease_s: float = 60, owner: str = "c1") -> tuple[Job, str]:
    claimed = store.claim(owner, ["m"], lease_s, 3)
    assert claimed is not None
    assert claimed.lease_token is not None
    return claimed, claimed.lease_token


def test_progress_rises_over_the_legs_and_stays_below_100() -> None:
    edges = [edge for leg in Leg for edge in PROGRESS[leg]]
    assert edges == sorted(edges)
    assert edges[0] > 0
    assert edges[-1] < 100
    assert progress_at(Leg.DENOISE, 7.0) == PROGRESS[Leg.DENOISE][1]


def test_an_ended_job_goes_nowhere() -> None:
    assert {Status.COMPLETED, Status.FAILED} == ENDED
    assert all(ended not in before(status) for status in Status for ended in ENDED)


def test_ids_sort_by_time() -> None:
    ids = [new_job_id() for _ in range(1000)]
    assert ids == sorted(ids)


def test_a_job_comes_back_as_it_was_stored(store: JobStore) -> None:
    stored = job(has_image=True, user="me")
    store.insert(stored)
    assert store.get(stored.id) == stored
    assert store.get("video_none") is None


def test_the_oldest_is_claimed_first_and_only_once(store: JobStore) -> None:
    first, second = job(), job()
    store.insert(first)
    store.insert(second)
    assert [claim(store)[0].id, claim(store)[0].id] == [first.id, second.id]
    assert store.claim("c2", ["m"], 60, 3) is None
    store.insert(job(model="other"))
    assert store.claim("c2", ["m"], 60, 3) is None


def test_racing_conductors_never_share_a_job(database: str) -> None:
    stores = [JobStore(database) for _ in range(4)]
    for _ in range(40):
        stores[0].insert(job())
    claimed: list[str] = []

    def take(store: JobStore) -> None:
        while (got := store.claim("c", ["m"], 60, 3)) is not None:
            claimed.append(got.id)

    threads = [threading.Thread(target=take, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for store in stores:
        store.close()
    assert len(claimed) == len(set(claimed)) == 40


def test_an_expired_lease_is_claimed_by_another_and_the_first_can_write_no_more(store: JobStore) -> None:
    store.insert(job())
    taken, old = claim(store, lease_s=-1)
    again, new = claim(store, owner="c2")
    assert (again.id, again.attempts) == (taken.id, 2)
    assert not store.advance(old, Leg.DECODE)
    assert not store.complete(old, {}, {})
    assert not store.fail(old, "x", "y")
    assert store.retry(old, 1, "y", 3) is None
    assert store.renew({old, new}, 60) == {new}
    assert store.complete(new, {"denoise": 1.0}, {"bytes": 5})
    ended = store.get(taken.id)
    assert ended is not None
    assert (ended.status, ended.progress, ended.leg_seconds) == (Status.COMPLETED, 100, {"denoise": 1.0})
    assert not store.advance(new, Leg.ENCODE)


def test_progress_never_falls_over_a_retry(store: JobStore) -> None:
    store.insert(job())
    taken, token = claim(store)
    store.advance(token, Leg.DENOISE, 0.5)
    assert store.retry(token, 1, "m", 3) is Status.QUEUED
    assert store.claim("c", ["m"], 60, 3) is None, "a retry waits a moment"
    waiting = store.get(taken.id)
    assert waiting is not None
    assert (waiting.progress, waiting.error_code) == (45, None)


def test_attempts_are_bounded(store: JobStore) -> None:
    store.insert(job())
    taken, token = claim(store)
    assert store.retry(token, 1, "it broke", 1) is Status.FAILED
    failed = store.get(taken.id)
    assert failed is not None
    assert (failed.error_code, failed.error_message, failed.ended) == ("server_error", "it broke", True)


def test_the_wait_before_a_retry_doubles_and_is_bounded() -> None:
    for attempt, middle in ((1, 1), (2, 2), (5, 16), (50, LONGEST_RETRY_DELAY_S)):
        waits = [retry_delay_s(attempt) for _ in range(200)]
        assert middle / 2 <= min(waits) < max(waits) <= 1.5 * middle


def test_a_dead_job_is_listed_and_can_be_driven_again(store: JobStore) -> None:
    refused, dead, later = job(), job(), job()
    for each in (refused, dead, later):
        store.insert(each)
    store.fail(claim(store)[1], "invalid_request", "the client's mistake")
    for _ in range(2):
        store.retry(claim(store)[1], 1, "it broke", 1)
    assert [each.id for each in store.dead(10)] == [later.id, dead.id]
    assert [each.id for each in store.dead(1)] == [later.id]
    assert not store.redrive(refused.id), "what the client caused is no fault of ours"
    assert not store.redrive("video_none")
    assert store.redrive(dead.id)
    assert not store.redrive(dead.id)
    taken, token = claim(store)
    assert (taken.id, taken.attempts, taken.error_code, taken.completed_at) == (dead.id, 1, None, None)
    assert store.complete(token, {}, {})
    assert [each.id for each in store.dead(10)] == [later.id]


def test_a_job_that_takes_its_conductor_with_it_is_not_tried_for_ever(store: JobStore) -> None:
    store.insert(job())
    for _ in range(3):
        taken, _ = claim(store, lease_s=-1)
    assert taken.attempts == 3
    assert store.claim("c", ["m"], 60, 3) is None
    assert store.fail_spent(4, "it is gone") == []
    assert store.fail_spent(3, "it is gone") == [(taken.id, "m")]
    failed = store.get(taken.id)
    assert failed is not None
    assert (failed.status, failed.error_message, failed.lease_token) == (Status.FAILED, "it is gone", None)


def test_a_released_job_has_not_used_an_attempt(store: JobStore) -> None:
    store.insert(job())
    _, token = claim(store)
    assert store.release(token)
    assert claim(store)[0].attempts == 1


def test_a_deleted_job_loses_its_lease(store: JobStore) -> None:
    stored = job()
    store.insert(stored)
    _, token = claim(store)
    assert store.delete(stored.id)
    assert not store.delete(stored.id)
    assert not store.advance(token, Leg.DENOISE)


def test_a_canceled_job_has_ended_and_loses_its_lease(store: JobStore) -> None:
    waiting, running = job(), job()
    store.insert(running)
    _, token = claim(store)
    store.insert(waiting)
    for each in (waiting, running):
        canceled = store.cancel(each.id)
        assert canceled is not None
        assert (canceled.status, canceled.error_code, canceled.ended) == (Status.FAILED, "canceled", True)
    assert not store.complete(token, {}, {})
    assert store.claim("c", ["m"], 60, 3) is None
    assert store.cancel("video_none") is None


def test_canceling_a_completed_job_changes_nothing(store: JobStore) -> None:
    store.insert(job())
    taken, token = claim(store)
    store.complete(token, {}, {})
    assert store.cancel(taken.id) == store.get(taken.id)
    after = store.get(taken.id)
    assert after is not None
    assert after.status is Status.COMPLETED


def test_pages_in_both_directions(store: JobStore) -> None:
    ids = [new_job_id() for _ in range(5)]
    for each in ids:
        store.insert(job(id=each))
    page, more = store.page(after=None, limit=2, newest_first=True)
    assert ([j.id for j in page], more) == (ids[:2:-1], True)
    page, more = store.page(after=ids[3], limit=9, newest_first=True)
    assert ([j.id for j in page], more) == (ids[2::-1], False)
    page, more = store.page(after=ids[0], limit=2, newest_first=False)
    assert ([j.id for j in page], more) == (ids[1:3], True)


def test_counts_for_the_metrics(store: JobStore) -> None:
    assert store.oldest_queued_at() is None
    store.insert(job(created_at=5.0))
    store.insert(job(model="n"))
    claim(store)
    assert store.counts() == {("m", Status.IN_PROGRESS): 1, ("n", Status.QUEUED): 1}
