"""What a conductor asks of the store in one transaction, and in none."""

from __future__ import annotations

from jobs.database import Database
from pipelines.stages import Stage
from tests.unit.conftest import Jobs


def test_many_jobs_are_claimed_at_once_in_order_and_no_more_than_there_is_room_for(jobs: Jobs) -> None:
    accepted = [jobs.accept().id for _ in range(6)]
    first = jobs.leases.claim("m", owner="c1", lease_s=60.0, max_attempts=3, capacity=5, most=2)
    assert [job.id for job in first] == accepted[:2]
    second = jobs.leases.claim("m", owner="c1", lease_s=60.0, max_attempts=3, capacity=5, most=10)
    assert [job.id for job in second] == accepted[2:5]
    assert len({job.lease_token for job in first + second}) == 5
    assert jobs.leases.claim("m", owner="c1", lease_s=60.0, max_attempts=3, capacity=5, most=10) == []


def test_what_assigns_no_denoiser_locks_nothing(database: str, jobs: Jobs) -> None:
    jobs.accept()
    jobs.accept()
    _, first = jobs.take()
    _, second = jobs.take()
    for token in (first, second):
        jobs.advance(token, Stage.DENOISE, 25)
    assert jobs.allocation.assign("m", ["d1"], {first, second}) == {first: "d1"}
    with Database(database) as other, other.write() as connection:
        if not other.is_sqlite:
            connection.exec_driver_sql("LOCK TABLE jobs IN EXCLUSIVE MODE")
        assert jobs.allocation.assign("m", ["d1"], {second}) == {}
        assert jobs.allocation.assign("m", ["d1"], {first}) == {first: "d1"}, "a lost answer is given again"


def test_leases_that_are_still_held(jobs: Jobs) -> None:
    canceled, deleted, kept = (jobs.accept(), jobs.accept(), jobs.accept())
    tokens = [jobs.take()[1] for _ in range(3)]
    assert jobs.leases.held(tokens) == set(tokens)
    assert jobs.store.cancel(canceled.id)
    assert jobs.store.delete(deleted.id)
    assert jobs.leases.held(tokens) == {jobs.get(kept).lease_token}
