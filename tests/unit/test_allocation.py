"""Who gets a denoiser and who gives one up, on both databases."""

from __future__ import annotations

import time
from typing import Any

import pytest

from jobs.priority import Priority
from jobs.record import Job
from pipelines.stages import Stage
from tests.unit.conftest import Jobs

AFTER_S = 50.0  # a test takes a fraction of it, wherever it runs


def encoded(jobs: Jobs, *, replica: str | None = None, **fields: Any) -> tuple[Job, str]:
    """A job that waits for a denoiser, or has one; returns it and its lease's token."""
    job = jobs.accept(**fields)
    taken, token = jobs.take(model=job.model)
    assert taken.id == job.id
    assert jobs.advance(token, Stage.DENOISE, 1, replica=replica)
    return job, token


def test_free_denoisers_go_to_those_whose_turn_is_first(jobs: Jobs) -> None:
    _, first = encoded(jobs)
    _, second = encoded(jobs)
    urgent, high = encoded(jobs, priority=Priority.HIGH)
    encoded(jobs, replica="d1")
    assert jobs.allocation.assign("m", ["d1"], {first, second, high}) == {}, "none is free"
    assert jobs.allocation.assign("m", ["d1", "d2"], {first, second, high}) == {high: "d2"}
    assert jobs.get(urgent).replica == "d2"
    assert jobs.allocation.assign("m", ["d1", "d2", "d3", "d4", "d5"], {first, second}) == {first: "d3", second: "d4"}
    assert jobs.advance(high, Stage.DECODE, 90)
    _, last = encoded(jobs)
    assert jobs.allocation.assign("m", ["d1", "d2", "d3", "d4"], {last}) == {last: "d2"}, "one has left its denoiser"


def test_a_conductor_serves_anothers_job_whose_turn_comes_first(jobs: Jobs) -> None:
    other, theirs = encoded(jobs)
    _, mine = encoded(jobs)
    assert jobs.allocation.assign("m", ["d1"], {mine}) == {}
    assert jobs.get(other).replica == "d1"
    assert jobs.allocation.assign("m", ["d1"], {theirs}) == {theirs: "d1"}, "it finds what it was given"
    assert jobs.allocation.assign("m", ["d1"], {theirs}) == {theirs: "d1"}, "again, if the answer was lost"
    assert jobs.allocation.assign("m", ["d1", "d2"], {mine}) == {mine: "d2"}


def test_what_was_given_and_is_gone_is_given_anew(jobs: Jobs) -> None:
    _, token = encoded(jobs)
    assert jobs.allocation.assign("m", ["d1"], {token}) == {token: "d1"}
    assert jobs.allocation.assign("m", ["d2"], {token}) == {token: "d2"}


def test_nobody_waits_for_a_conductor_that_is_dead_but_its_denoiser_is_still_at_work(jobs: Jobs) -> None:
    _, waits = encoded(jobs)
    _, works = encoded(jobs, replica="d1", model="n")
    _, mine = encoded(jobs)
    _, of_n = encoded(jobs, model="n")
    jobs.leases.renew({waits, works}, -1)
    assert jobs.allocation.assign("m", ["d1"], {mine}) == {mine: "d1"}
    assert jobs.allocation.assign("n", ["d1"], {of_n}) == {}


def test_a_job_that_was_given_back_keeps_its_turn_and_not_more(jobs: Jobs) -> None:
    _, token = encoded(jobs)
    assert jobs.leases.release(token)
    _, again = jobs.take()
    assert jobs.advance(again, Stage.DENOISE, 1)
    _, high = encoded(jobs, priority=Priority.HIGH)
    _, later = encoded(jobs)
    assert jobs.allocation.assign("m", ["d1"], {again, high, later}) == {high: "d1"}
    assert jobs.allocation.assign("m", ["d1", "d2"], {again, later}) == {again: "d2"}


def running(jobs: Jobs, replica: str, left_s: float, priority: Priority = Priority.NORMAL) -> str:
    """A job that has a denoiser, with so much left to do."""
    _, token = encoded(jobs, replica=replica, priority=priority, work={"denoise": 1.0})
    with jobs.database.write() as connection:
        connection.exec_driver_sql(f"UPDATE jobs SET cost_s = {left_s}, progress = 0 WHERE lease_token = '{token}'")
    return token


def urgent(jobs: Jobs, waited_s: float = 100) -> Job:
    """A job that has waited and is encoded."""
    return encoded(jobs, priority=Priority.HIGH, created_at=time.time() - waited_s)[0]


def test_the_lowest_class_is_preempted(jobs: Jobs) -> None:
    jobs_left = {"d1": (600.0, Priority.NORMAL), "d2": (200.0, Priority.LOW), "d3": (90.0, Priority.HIGH)}
    normal, low, _ = (running(jobs, replica, *left) for replica, left in jobs_left.items())
    assert jobs.allocation.preempted("m", 3, AFTER_S) == set(), "nobody waits"
    urgent(jobs)
    assert jobs.allocation.preempted("m", 3, AFTER_S) == {low}
    assert jobs.advance(low, Stage.DENOISE, 40, replica="d2")
    assert jobs.allocation.preempted("m", 3, AFTER_S) == {low}, "the same until it has stopped"
    urgent(jobs)
    urgent(jobs)
    assert jobs.allocation.preempted("m", 3, AFTER_S) == {low, normal}, "never one of the same class"
    assert jobs.allocation.preempted("m", 4, AFTER_S) == {low, normal}, "one gets what is free, two ask"
    assert jobs.allocation.preempted("m", 5, AFTER_S) == {low}
    assert jobs.allocation.preempted("m", 6, AFTER_S) == set()


def test_a_job_about_to_finish_is_not_preempted(jobs: Jobs) -> None:
    running(jobs, "d1", left_s=40.0)
    long = running(jobs, "d2", left_s=600.0)
    urgent(jobs)
    urgent(jobs)
    assert jobs.allocation.preempted("m", 2, AFTER_S) == {long}, "the other is done as soon"
    assert jobs.allocation.preempted("m", 2, after_s=1500.0) == set(), "nobody has waited so long"
    assert jobs.allocation.preempted("m", 2, AFTER_S) == {long}
    assert jobs.allocation.preempted("n", 2, AFTER_S) == set()


@pytest.mark.parametrize(("waited", "believed"), [(2, True), (3, False)])
def test_an_estimate_is_not_believed_for_ever(jobs: Jobs, waited: int, believed: bool) -> None:
    nearly = running(jobs, "d1", left_s=40.0)
    urgent(jobs, waited_s=waited * AFTER_S)
    assert jobs.allocation.preempted("m", 1, AFTER_S) == (set() if believed else {nearly})


def test_a_job_that_could_not_begin_preempts_nobody(jobs: Jobs) -> None:
    low, high = running(jobs, "d1", 600.0, Priority.LOW), running(jobs, "d2", 600.0, Priority.HIGH)
    jobs.accept(priority=Priority.HIGH, created_at=time.time() - 100)
    assert jobs.allocation.preempted("m", 2, AFTER_S) == set(), "it is in the queue"
    _, token = jobs.take()
    assert jobs.allocation.preempted("m", 2, AFTER_S) == set(), "it is being encoded"
    assert jobs.advance(token, Stage.DENOISE, 1)
    assert jobs.allocation.preempted("m", 2, AFTER_S) == {low}
    assert jobs.advance(low, Stage.DENOISE, 1), "it has been preempted"
    assert jobs.allocation.preempted("m", 2, AFTER_S) == set(), "one is free"
    assert jobs.allocation.assign("m", ["d1", "d2"], {low, token}) == {token: "d1"}
    assert jobs.allocation.preempted("m", 2, AFTER_S) == set()
    assert jobs.advance(high, Stage.DECODE, 90)
    assert jobs.allocation.assign("m", ["d1", "d2"], {low}) == {low: "d2"}


def test_a_job_whose_class_has_aged_is_not_interrupted(jobs: Jobs) -> None:
    running(jobs, "d1", 600.0, Priority.LOW)
    job = urgent(jobs)
    with jobs.database.write() as connection:  # 1300 seconds of work have been done since it came
        connection.exec_driver_sql(f"UPDATE jobs SET queue_rank = 1300 WHERE id = '{job.id}'")
    assert jobs.allocation.preempted("m", 1, AFTER_S) == set()


def test_the_first_turn_of_those_that_wait_gets_the_free_denoiser(jobs: Jobs) -> None:
    running(jobs, "d1", 600.0, Priority.LOW)
    later, _ = urgent(jobs), urgent(jobs)
    with jobs.database.write() as connection:
        connection.exec_driver_sql(f"UPDATE jobs SET queue_rank = 1300 WHERE id = '{later.id}'")
    assert jobs.allocation.preempted("m", 2, AFTER_S) == set(), "the other comes after the job that has a denoiser"
