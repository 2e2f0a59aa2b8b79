"""What the store answers about jobs: one, a page, the queue, what happened, and the figures for an operator."""

from __future__ import annotations

import dataclasses

from jobs.ids import new_job_id
from jobs.lifecycle import Status
from jobs.priority import Priority
from pipelines.stages import Stage
from tests.unit.conftest import Jobs


def test_ids_sort_by_time() -> None:
    ids = [new_job_id() for _ in range(1000)]
    assert ids == sorted(ids)


def test_a_job_comes_back_as_it_was_accepted(jobs: Jobs) -> None:
    stored = jobs.accept(has_image=True, user="me", output={"crf": 20}, work={"denoise": 1.5})
    assert jobs.get(stored) == stored
    assert jobs.store.get("video_none") is None


def test_pages_in_both_directions(jobs: Jobs) -> None:
    ids = [jobs.accept(api_key="k" if index % 2 else "").id for index in range(5)]
    page, more = jobs.store.page(after=None, limit=2, newest_first=True)
    assert ([j.id for j in page], more) == (ids[:2:-1], True)
    page, more = jobs.store.page(after=ids[3], limit=9, newest_first=True)
    assert ([j.id for j in page], more) == (ids[2::-1], False)
    page, more = jobs.store.page(after=ids[0], limit=2, newest_first=False)
    assert ([j.id for j in page], more) == (ids[1:3], True)
    page, more = jobs.store.page(after=None, limit=9, newest_first=False, api_key="k")
    assert ([j.id for j in page], more) == ([ids[1], ids[3]], False)


def test_every_change_is_an_event_that_can_be_asked_for_again(jobs: Jobs) -> None:
    job = jobs.accept()
    _, token = jobs.take()
    jobs.advance(token, Stage.DENOISE, 30, step=2)
    live = jobs.store.events(job.id, 0)
    assert [(each.version, each.kind) for each in live] == [(1, "queued"), (2, "progress"), (3, "progress")]
    assert live[-1].data == {
        "status": "in_progress", "stage": "denoise", "progress": 30, "step": 2, "attempts": 1, "error": None,
    }  # fmt: skip
    assert jobs.store.events(job.id, 2) == live[2:]
    assert jobs.store.versions([job.id, "video_none"]) == {job.id: 3}
    jobs.complete(token)
    assert [(each.version, each.kind) for each in jobs.store.events(job.id, 0)] == [(1, "queued"), (4, "completed")]


def test_how_a_job_ended_has_a_name(jobs: Jobs) -> None:
    canceled, failed = jobs.accept(), jobs.accept()
    jobs.store.cancel(canceled.id)
    jobs.leases.fail(jobs.take()[1], "generation_failed", "it cannot be done")
    assert [jobs.store.events(each.id, 1)[-1].kind for each in (canceled, failed)] == ["canceled", "failed"]
    assert jobs.store.events(failed.id, 2)[0].data["error"] == {
        "code": "generation_failed", "message": "it cannot be done",
    }  # fmt: skip


def test_the_queue_is_in_the_order_of_claiming(jobs: Jobs) -> None:
    requeued = [jobs.accept(priority=Priority.LOW).id for _ in range(2)]
    for token in [jobs.take()[1] for _ in requeued]:
        assert jobs.leases.release(token)
    fresh = [jobs.accept(priority=priority).id for priority in reversed(Priority)]
    order = requeued + fresh[::-1]
    assert [waiting.id for waiting in jobs.store.queue("m")] == order
    assert [jobs.take()[0].id for _ in order] == order


def test_figures_for_the_metrics(jobs: Jobs) -> None:
    assert jobs.store.oldest_queued_at() is None
    assert jobs.store.backlog_s() == {}
    jobs.accept(created_at=5.0)
    jobs.accept(model="n")
    taken, token = jobs.take()
    assert jobs.store.counts() == {("m", Status.IN_PROGRESS): 1, ("n", Status.QUEUED): 1}
    jobs.advance(token, Stage.DENOISE, 50)
    assert jobs.store.backlog_s()["m"] == dataclasses.replace(taken).cost_s / 2
    jobs.complete(token)
    assert set(jobs.store.backlog_s()) == {"n"}
    assert jobs.store.counts() == {("n", Status.QUEUED): 1}, "those that have ended are not read at every scrape"
