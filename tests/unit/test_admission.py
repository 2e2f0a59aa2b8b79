"""Submission: limits, idempotency, and what is learned of costs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import delete, event

from jobs import leases
from jobs.admission import KeyReused, Limits, Refused, Repeatable, accept
from jobs.costs import FIRST_GUESS_S, Line
from jobs.database import Database
from jobs.leases import Leases
from jobs.record import Job
from jobs.schema import jobs as job_table
from jobs.store import JobStore
from pipelines.stages import Stage
from tests.unit.conftest import Jobs, new_job

WORK = {"text_encode": 1.0, "denoise": 4.0, "decode": 2.0, "publish": 1.0}
NO_LINE = Line(0, 0, 0, 0, 0)


def finish(jobs: Jobs, denoise_s: float, work: float) -> None:
    jobs.accept(work={**WORK, "denoise": work})
    jobs.complete(jobs.take()[1], {"text_encode": 0.5, "denoise": denoise_s, "decode": 1.0})


def test_costs_are_learned_from_finished_jobs(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "LINES_S", 3600.0)
    first = jobs.accept(work=WORK)
    assert not jobs.leases.estimate(first).measured
    assert first.cost_s == sum(FIRST_GUESS_S[Stage(stage)] for stage in WORK if stage != Stage.PUBLISH)
    jobs.store.delete(first.id)
    for work in (1.0, 2.0, 3.0):
        finish(jobs, 1 + 2 * work, work)
    learned = jobs.accept(work=WORK)
    assert not jobs.leases.estimate(learned).measured, "what was read a moment ago is not read again"
    assert Leases(jobs.database).estimate(learned).measured
    assert learned.cost_s == pytest.approx(0.5 + (1 + 2 * 4.0) + 1.0)


def test_a_change_of_hardware_is_learned() -> None:
    line = NO_LINE
    for _ in range(200):
        line = line.with_point(2.0, 10.0)
    for _ in range(100):
        line = line.with_point(2.0, 1.0)
    assert 1.0 < line.at(2.0) < 3.0


def test_a_line_without_two_positive_coefficients_goes_through_the_origin() -> None:
    falling = NO_LINE.with_point(1.0, 5.0).with_point(2.0, 1.0)
    assert falling.at(2.0) == pytest.approx(2 * falling.at(1.0))
    assert NO_LINE.with_point(0.0, 3.0).at(0.0) == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("limits", "name"),
    [
        (Limits(max_queued=2), "max_queued"),
        (Limits(max_backlog_s=30), "max_backlog_s"),
        (Limits(requests_per_minute=2), "requests_per_minute"),
        (Limits(live_jobs=2), "live_jobs"),
        (Limits(gpu_seconds_per_day=30), "gpu_seconds_per_day"),
    ],
)
def test_past_a_limit_nothing_is_stored(jobs: Jobs, limits: Limits, name: str) -> None:
    now = 60.0 * 10**7 + 20  # a third of a minute has passed
    for _ in range(2):
        accept(jobs.database, new_job(api_key="k"), limits, clock=lambda _: now)  # 12.5 s each
    with pytest.raises(Refused) as refused:
        accept(jobs.database, new_job(api_key="k"), limits, Repeatable("once", "f"), clock=lambda _: now)
    assert refused.value.limit == name
    assert refused.value.retry_after_s >= 1
    assert len(jobs.store.page(after=None, limit=9, newest_first=True)[0]) == 2
    if name not in ("max_queued", "max_backlog_s"):
        accept(jobs.database, new_job(api_key="another"), limits)
    accept(jobs.database, new_job(api_key="k", model="another"), Limits(), Repeatable("once", "f"))


def test_requests_of_the_minute_before_count_as_far_as_it_is_within_sixty_seconds(jobs: Jobs) -> None:
    minute, limits = 60.0 * 10**7, Limits(requests_per_minute=4)

    def send(second: float) -> None:
        accept(jobs.database, new_job(api_key="k"), limits, clock=lambda _: minute + second)

    for _ in range(4):
        send(10.0)
    for second, wait in ((59.0, 1.0), (69.0, 51.0)):  # of the second minute 15 % have passed: 3.4 of the 4 count
        with pytest.raises(Refused) as refused:
            send(second)
        assert refused.value.retry_after_s == wait
    send(75.0)
    with pytest.raises(Refused):
        send(75.0)
    send(120.0)


def test_gpu_seconds_of_finished_jobs_count_for_the_day(jobs: Jobs) -> None:
    jobs.accept(api_key="k")
    jobs.complete(jobs.take()[1], {"denoise": 100.0, "publish": 50.0})
    with pytest.raises(Refused):
        accept(jobs.database, new_job(api_key="k"), Limits(gpu_seconds_per_day=110))
    accept(jobs.database, new_job(api_key="k"), Limits(gpu_seconds_per_day=113))


def test_one_idempotency_key_is_one_job(jobs: Jobs) -> None:
    once = accept(jobs.database, new_job(), Limits(), Repeatable("key", "same"))
    again = accept(jobs.database, new_job(), Limits(max_queued=1), Repeatable("key", "same"))
    assert again == once
    with pytest.raises(KeyReused):
        accept(jobs.database, new_job(), Limits(), Repeatable("key", "other"))
    others = accept(jobs.database, new_job(api_key="k"), Limits(), Repeatable("key", "other"))
    assert others.id != once.id
    jobs.store.delete(once.id)
    assert accept(jobs.database, new_job(), Limits(), Repeatable("key", "other")).id != once.id


@pytest.mark.parametrize("after", ["INSERT INTO idempotency_keys", "SELECT idempotency_keys"])
def test_a_job_that_is_deleted_while_its_key_is_looked_up_is_one_that_never_was(
    database: str, jobs: Jobs, connect: Callable[[str], Database], after: str
) -> None:
    if jobs.database.is_sqlite:
        pytest.skip("SQLite has one writer at a time")
    once = accept(jobs.database, new_job(), Limits(), Repeatable("key", "same"))
    other = JobStore(connect(database))
    deleted: list[bool] = []

    def delete_once(_connection: object, _cursor: object, statement: str, *_: Any) -> None:
        if statement.startswith(after) and not deleted:
            deleted.append(other.delete(once.id))

    event.listen(jobs.database.engine, "after_cursor_execute", delete_once)
    anew = accept(jobs.database, new_job(), Limits(), Repeatable("key", "same"))
    assert deleted == [True]
    assert anew.id != once.id
    assert accept(jobs.database, new_job(), Limits(), Repeatable("key", "same")) == anew


def test_a_key_whose_job_is_gone_stands_for_nothing(jobs: Jobs) -> None:
    once = accept(jobs.database, new_job(), Limits(), Repeatable("key", "same"))
    with jobs.database.write() as connection:  # as an operator may do by hand
        connection.execute(delete(job_table).where(job_table.c.id == once.id))
    assert accept(jobs.database, new_job(), Limits(), Repeatable("key", "same")).id != once.id


def test_fifty_concurrent_duplicates_make_one_job(database: str, jobs: Jobs) -> None:
    together = threading.Barrier(50)

    def send(_: int) -> Job:
        with Database(database) as opened:
            together.wait(timeout=30)
            return accept(opened, new_job(), Limits(), Repeatable("key", "same"))

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(send, range(50)))
    assert len({answer.id for answer in answers}) == 1
    assert len(jobs.store.page(after=None, limit=99, newest_first=True)[0]) == 1
