"""The life of a job, and a store that several conductors share."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, select, text, update

from jobs.changes import Position
from jobs.costs import mean_seconds, read_lines
from jobs.database import Database
from jobs.leases import LONGEST_RETRY_DELAY_S, Rendered, retry_delay_s
from jobs.lifecycle import ENDED, Status, before, percent
from jobs.priority import Priority
from jobs.schema import jobs as table
from jobs.schema import webhooks
from jobs.stored import Checkpoints, ResultMetadata
from jobs.usage import gpu_seconds_per_day
from pipelines.stages import Stage
from tests.harness.processes import until
from tests.unit.conftest import Jobs
from tests.unit.test_stored import checkpoint


def test_a_live_job_is_at_1_to_99_percent() -> None:
    assert [percent(share) for share in (-1, 0, 0.005, 0.5, 0.999, 1, 2)] == [1, 1, 1, 50, 99, 99, 99]


def test_an_ended_job_goes_nowhere() -> None:
    assert {Status.COMPLETED, Status.FAILED} == ENDED
    assert all(ended not in before(status) for status in Status for ended in ENDED)


def test_the_oldest_is_claimed_first_and_only_once(jobs: Jobs) -> None:
    first, second = jobs.accept(), jobs.accept()
    assert [jobs.take()[0].id, jobs.take()[0].id] == [first.id, second.id]
    assert jobs.claim(owner="c2") is None
    jobs.accept(model="other")
    assert jobs.claim(owner="c2") is None


def test_racing_conductors_never_share_a_job(database: str, jobs: Jobs) -> None:
    for _ in range(40):
        jobs.accept()

    def take(_: int) -> list[str]:
        with Database(database) as opened:
            return [got.id for got in iter(Jobs(opened).claim, None)]

    with ThreadPoolExecutor(4) as pool:
        claimed = [each for taken in pool.map(take, range(4)) for each in taken]
    assert len(claimed) == len(set(claimed)) == 40


def test_an_expired_lease_is_claimed_by_another_and_the_first_can_write_no_more(jobs: Jobs) -> None:
    jobs.accept()
    taken, old = jobs.take(lease_s=-1)
    again, new = jobs.take(owner="c2")
    assert (again.id, again.attempts) == (taken.id, 2)
    assert not jobs.advance(old, Stage.DECODE, 50)
    assert not jobs.leases.commit(old, "denoise", checkpoint(1), ["denoise"])
    assert not jobs.complete(old)
    assert not jobs.leases.fail(old, "x", "y")
    assert jobs.leases.retry(old, 1, "y", 3) is None
    assert not jobs.leases.release(old)
    assert jobs.leases.remaining_s(old) is None
    assert jobs.leases.renew({old, new}, 60) == {new}
    assert jobs.complete(new, {"denoise": 1.0}, ResultMetadata(bytes=5))
    ended = jobs.get(taken)
    assert (ended.status, ended.progress, ended.stage_seconds) == (Status.COMPLETED, 100, {"denoise": 1.0})
    assert not jobs.advance(new, Stage.TEXT_ENCODE, 1)


def test_jobs_that_end_together_end_as_they_would_alone(jobs: Jobs) -> None:
    stored = [jobs.accept(api_key=key, work={"denoise": 1.0}, webhook_url="https://x.test") for key in ("a", "a", "b")]
    tokens = {taken.id: token for taken, token in (jobs.take() for _ in stored)}
    assert jobs.store.cancel(stored[0].id)
    seconds = {stored[place].id: {"denoise": float(place)} for place in range(3)}
    ended = {token: Rendered(seconds[job], ResultMetadata(device=job)) for job, token in tokens.items()}
    assert jobs.leases.complete({**ended, "none": Rendered({}, ResultMetadata())}) == {
        tokens[each.id] for each in stored[1:]
    }
    for each in stored[1:]:
        done = jobs.get(each)
        assert (done.status, done.stage_seconds, done.result_metadata) == (
            Status.COMPLETED,
            seconds[each.id],
            ResultMetadata(device=each.id),
        )
        assert [event.kind for event in jobs.store.events(each.id, 0)] == ["queued", "completed"]
    with jobs.database.read() as connection:
        spent = [gpu_seconds_per_day(connection, key, time.time()) for key in ("a", "b")]
        assert spent == pytest.approx([1.0, 2.0], abs=0.2), "and a little for the one that was canceled"
        assert mean_seconds(read_lines(connection, "m"))[Stage.DENOISE] == pytest.approx(1.5, abs=0.01)
        owed = connection.execute(select(func.count()).select_from(webhooks)).scalar_one()
    assert owed == 3, "the canceled one's too"


def test_a_place_that_comes_late_moves_no_job(jobs: Jobs) -> None:
    here, gone = (jobs.accept() for _ in range(2))
    tokens = [jobs.take()[1] for _ in range(2)]
    for token in tokens:
        assert jobs.advance(token, Stage.DENOISE, 10, replica="d1")
    assert jobs.advance(tokens[1], Stage.DECODE, 90)
    late = Position(Stage.DENOISE, 50, 5, "d1")
    assert jobs.leases.move(dict.fromkeys(tokens, late), 60) == set(tokens)
    assert [(jobs.get(each).stage, jobs.get(each).step) for each in (here, gone)] == [
        (Stage.DENOISE, 5),
        (Stage.DECODE, None),
    ]
    elsewhere = Position(Stage.DENOISE, 60, 6, "d2")
    assert jobs.leases.move({tokens[0]: elsewhere}, 60) == {tokens[0]}
    assert jobs.get(here).step == 5, "it was taken from that denoiser"


def test_what_no_client_can_see_has_no_event(jobs: Jobs) -> None:
    job = jobs.accept()
    _, token = jobs.take()
    assert jobs.advance(token, Stage.DENOISE, 10, replica="d1")
    told = jobs.store.events(job.id, after=0)
    jobs.leases.move({token: Position(Stage.DENOISE, 10, None, "d1")}, 60)
    assert jobs.store.events(job.id, after=0) == told
    jobs.leases.move({token: Position(Stage.DENOISE, 10, 1, "d1")}, 60)
    assert len(jobs.store.events(job.id, after=0)) == len(told) + 1


def test_what_is_written_of_a_job_renews_its_lease(jobs: Jobs) -> None:
    jobs.accept()
    _, token = jobs.take(lease_s=1)
    jobs.leases.move({token: Position(Stage.DENOISE, 10, begins=True)}, 60)
    assert (jobs.leases.remaining_s(token) or 0) > 30


def test_a_renewal_waits_for_no_job_that_is_being_written(jobs: Jobs) -> None:
    if jobs.database.is_sqlite:
        pytest.skip("SQLite has one writer at a time")
    jobs.accept()
    jobs.accept()
    (_, held), (_, free) = jobs.take(lease_s=1), jobs.take(lease_s=1)
    with jobs.database.write() as connection:
        connection.execute(select(table).where(table.c.lease_token == held).with_for_update())
        assert jobs.leases.renew({held, free, "gone"}, 60) == {held, free}
    left = {token: jobs.leases.remaining_s(token) or 0 for token in (held, free)}
    assert left[free] - left[held] > 50


def test_no_more_jobs_are_claimed_than_the_denoisers_can_take(jobs: Jobs) -> None:
    for _ in range(4):
        jobs.accept()
    jobs.accept(model="n")
    _, token = jobs.take(capacity=2)
    jobs.take(capacity=2)
    assert jobs.claim(capacity=2) is None
    assert jobs.claim(model="n", capacity=1) is not None, "each model has denoisers of its own"
    jobs.advance(token, Stage.DECODE, 80)
    assert jobs.claim(capacity=2) is not None, "one has left its denoiser"
    assert jobs.claim(capacity=2) is None


def test_those_that_wait_for_a_denoiser_hold_up_no_job_whose_turn_is_before_theirs(jobs: Jobs) -> None:
    for _ in range(2):
        jobs.accept()
        jobs.take(capacity=2)
    urgent = jobs.accept(priority=Priority.HIGH)
    jobs.accept()
    assert jobs.take(capacity=2)[0].id == urgent.id
    assert jobs.claim(capacity=2) is None


def test_one_that_was_given_back_and_has_no_room_holds_up_nobody_else(jobs: Jobs) -> None:
    low = jobs.accept(priority=Priority.LOW)
    _, token = jobs.take()
    for _ in range(2):
        jobs.accept()
        jobs.take()
    assert jobs.leases.release(token)
    assert jobs.claim(capacity=2) is None
    urgent = jobs.accept(priority=Priority.HIGH)
    assert jobs.take(capacity=2)[0].id == urgent.id
    assert jobs.take(capacity=4)[0].id == low.id


def test_a_lease_that_ran_out_is_left_while_its_conductor_may_only_be_held_up(jobs: Jobs) -> None:
    held, waits = jobs.accept(), jobs.accept()
    jobs.take(lease_s=-1)
    assert getattr(jobs.claim(take_over=False), "id", None) == waits.id
    assert jobs.claim(take_over=False) is None
    assert getattr(jobs.claim(), "id", None) == held.id


def test_an_abandoned_job_is_taken_whatever_the_capacity(jobs: Jobs) -> None:
    jobs.accept()
    taken, _ = jobs.take(lease_s=-1)
    assert jobs.take(capacity=0)[0].id == taken.id


def test_progress_never_falls_over_a_retry(jobs: Jobs) -> None:
    jobs.accept()
    taken, token = jobs.take()
    jobs.advance(token, Stage.DENOISE, 45, step=3, replica="r1")
    assert (jobs.get(taken).step, jobs.get(taken).replica) == (3, "r1")
    assert jobs.leases.retry(token, 1, "m", 3) is Status.QUEUED
    assert jobs.claim() is None, "a retry waits a moment"
    waiting = jobs.get(taken)
    assert (waiting.progress, waiting.error_code, waiting.replica) == (45, None, None)


def test_a_checkpoint_outlives_an_attempt_and_not_the_job(jobs: Jobs) -> None:
    jobs.accept()
    taken, token = jobs.take()
    committed = checkpoint(7)
    assert jobs.leases.commit(token, "denoise", committed, ["denoise"])
    assert jobs.leases.checkpoint(token, "denoise") == committed
    assert jobs.leases.checkpoint(token, "denoise.2") is None
    jobs.leases.release(token)
    assert jobs.get(taken).checkpoint == Checkpoints(nodes={"denoise": committed})
    _, token = jobs.take()
    assert jobs.complete(token)
    assert jobs.get(taken).checkpoint is None


def test_attempts_are_bounded(jobs: Jobs) -> None:
    jobs.accept()
    taken, token = jobs.take()
    assert jobs.leases.retry(token, 1, "it broke", 1) is Status.FAILED
    failed = jobs.get(taken)
    assert (failed.error_code, failed.error_message, failed.ended) == ("server_error", "it broke", True)


def test_the_wait_before_a_retry_doubles_and_is_bounded() -> None:
    for attempt, middle in ((1, 1), (2, 2), (5, 16), (50, LONGEST_RETRY_DELAY_S)):
        waits = [retry_delay_s(attempt) for _ in range(200)]
        assert middle / 2 <= min(waits) < max(waits) <= 1.5 * middle


def test_a_dead_job_is_listed_and_can_be_driven_again(jobs: Jobs) -> None:
    refused, dead, later = jobs.accept(), jobs.accept(), jobs.accept()
    jobs.leases.fail(jobs.take()[1], "invalid_request", "the client's mistake")
    for _ in range(2):
        jobs.leases.retry(jobs.take()[1], 1, "it broke", 1)
    assert [each.id for each in jobs.store.dead(10)] == [later.id, dead.id]
    assert [each.id for each in jobs.store.dead(1)] == [later.id]
    assert not jobs.store.redrive(refused.id), "what the client caused is no fault of ours"
    assert not jobs.store.redrive("video_none")
    assert jobs.store.redrive(dead.id)
    assert not jobs.store.redrive(dead.id)
    taken, token = jobs.take()
    assert (taken.id, taken.attempts, taken.error_code, taken.completed_at) == (dead.id, 1, None, None)
    assert jobs.complete(token)
    assert [each.id for each in jobs.store.dead(10)] == [later.id]


def test_a_job_that_takes_its_conductor_with_it_is_not_tried_for_ever(jobs: Jobs) -> None:
    jobs.accept()
    for _ in range(3):
        taken, _ = jobs.take(lease_s=-1)
    assert taken.attempts == 3
    assert jobs.claim() is None
    assert jobs.leases.fail_spent(4, "it is gone") == []
    assert [each.id for each in jobs.leases.fail_spent(3, "it is gone")] == [taken.id]
    failed = jobs.get(taken)
    assert (failed.status, failed.error_message, failed.lease_token) == (Status.FAILED, "it is gone", None)


def test_a_released_job_has_not_used_an_attempt(jobs: Jobs) -> None:
    jobs.accept()
    _, token = jobs.take()
    assert jobs.leases.release(token)
    assert jobs.take()[0].attempts == 1


def test_a_deleted_job_loses_its_lease(jobs: Jobs) -> None:
    stored = jobs.accept()
    _, token = jobs.take()
    assert jobs.store.delete(stored.id)
    assert not jobs.store.delete(stored.id)
    assert not jobs.advance(token, Stage.DENOISE, 5)
    assert jobs.store.events(stored.id, 0) == []


def test_a_canceled_job_has_ended_and_loses_its_lease(jobs: Jobs) -> None:
    running = jobs.accept()
    _, token = jobs.take()
    waiting = jobs.accept()
    for each in (waiting, running):
        canceled = jobs.store.cancel(each.id)
        assert canceled is not None
        assert (canceled.status, canceled.error_code, canceled.ended) == (Status.FAILED, "canceled", True)
    assert not jobs.complete(token)
    assert jobs.claim() is None
    assert jobs.store.cancel("video_none") is None


def test_canceling_a_completed_job_changes_nothing(jobs: Jobs) -> None:
    jobs.accept()
    taken, token = jobs.take()
    jobs.complete(token)
    before_ = jobs.get(taken)
    assert before_.status is Status.COMPLETED
    assert jobs.store.cancel(taken.id) == before_


def test_the_time_to_keep_a_video_begins_when_it_is_there(jobs: Jobs) -> None:
    jobs.accept(expires_in_s=60.0)
    taken, token = jobs.take()
    assert taken.expires_at is None
    jobs.complete(token)
    done = jobs.get(taken)
    assert done.completed_at is not None
    assert done.expires_at == done.completed_at + 60


def test_a_job_that_is_given_back_goes_before_those_that_have_not_begun(jobs: Jobs) -> None:
    begun = jobs.accept(priority=Priority.LOW)
    _, token = jobs.take()
    urgent = jobs.accept(priority=Priority.HIGH)
    for _ in range(2):  # however often
        assert jobs.leases.release(token)
        taken, token = jobs.take(capacity=1)
        assert taken.id == begun.id
    assert jobs.advance(token, Stage.DENOISE, 5, replica="d1")
    assert jobs.claim(capacity=1) is None
    assert jobs.leases.retry(token, 3, "why", 1) is Status.FAILED
    assert jobs.store.redrive(begun.id)
    assert (jobs.get(begun).queue_rank, jobs.get(begun).fresh) == (begun.queue_rank, True), "driven anew it is as new"
    assert jobs.take()[0].id == urgent.id


def test_a_requeued_job_has_had_its_turn_and_keeps_its_rank(jobs: Jobs) -> None:
    def released(token: str) -> bool:
        return jobs.leases.release(token)

    def postponed(token: str) -> bool:
        return jobs.leases.release(token, for_s=-1.0)  # until a second ago

    def retried(token: str) -> bool:
        return jobs.leases.retry(token, 1, "why", 9) is Status.QUEUED

    for requeues, fresh in (([postponed], True), ([released, postponed], False), ([retried], False)):
        job = jobs.accept(priority=Priority.LOW)
        for requeue in requeues:
            assert requeue(jobs.take()[1])
        assert (jobs.get(job).fresh, jobs.get(job).queue_rank) == (fresh, job.queue_rank)
        jobs.store.cancel(job.id)


def test_a_job_that_was_denoised_does_not_wait_for_a_denoiser(jobs: Jobs) -> None:
    for final in (False, True):
        job = jobs.accept()
        _, token = jobs.take()
        assert jobs.leases.commit(token, "denoise", checkpoint(3, final=final), ["denoise"])
        assert jobs.leases.release(token)
        assert [getattr(jobs.claim(capacity=0), "id", None)] == [job.id if final else None]
        if not final:
            jobs.store.cancel(job.id)


def test_two_denoises_of_a_job_that_commit_at_once_both_keep_their_commits(jobs: Jobs) -> None:
    """The final latents of one pass are written while the next pass is at work, by another process."""
    if jobs.database.is_sqlite:
        pytest.skip("SQLite has one writer at a time")
    jobs.accept()
    job, token = jobs.take()
    with ThreadPoolExecutor(1) as pool, jobs.database.write() as connection:
        mine = table.c.lease_token == token
        connection.execute(select(table.c.id).where(mine).with_for_update())
        second = pool.submit(jobs.leases.commit, token, "denoise.2", checkpoint(2), ["denoise.2"])
        until(lambda: waits_for_a_lock(jobs), "the second commit waits for the first")
        first = Checkpoints().with_commit("denoise", checkpoint(9, final=True), ["denoise.2"])
        connection.execute(update(table).where(mine).values(checkpoint=first))
        connection.commit()
        assert second.result(60)
    found = jobs.get(job).checkpoint
    assert found is not None
    assert found.nodes.keys() == {"denoise", "denoise.2"}


def waits_for_a_lock(jobs: Jobs) -> bool:
    with jobs.database.read() as connection:
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        return bool(connection.execute(text(waiting)).scalar_one())


def test_costs_are_learned_of_stages_that_did_all_of_their_work(jobs: Jobs) -> None:
    jobs.accept(work={"denoise": 4.0, "decode": 2.0})
    _, token = jobs.take()
    rendered = Rendered({"denoise": 8.0, "decode": 1.0}, ResultMetadata(), partial=frozenset({"decode"}))
    assert jobs.leases.complete({token: rendered})
    assert set(jobs.store.lines("m")) == {Stage.DENOISE}
