"""Processes whose clocks are a minute apart share one job store: they go by the database's clock."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from threading import Event
from typing import Protocol

import pytest
from sqlalchemy import select, update

from deployments.stages.checkpoints import Commits, Writer
from deployments.stages.messages import DenoiseRequest, Stopped
from jobs.admission import Limits, Refused, accept
from jobs.clock import NOW, DatabaseClock, read_now
from jobs.database import Database
from jobs.retention import Retention
from jobs.schema import KEPT, webhooks
from jobs.schema import jobs as table
from jobs.stored import Fingerprint
from jobs.webhooks import Outbox
from pipelines.catalogue import get_card
from pipelines.stages import Stage
from storage.folder import FolderStore
from tests.harness.processes import until
from tests.unit.conftest import Jobs, new_job

MINUTE_S = 60.0


class Shifted(Protocol):
    def __call__(self, seconds: float) -> AbstractContextManager[None]: ...


@pytest.fixture
def shifted(monkeypatch: pytest.MonkeyPatch) -> Shifted:
    """Within it, this process's clock is wrong."""
    right = time.time

    @contextmanager
    def shift(seconds: float) -> Iterator[None]:
        with monkeypatch.context() as patched:
            patched.setattr(time, "time", lambda: right() + seconds)
            yield

    return shift


@pytest.fixture
def others(database: str) -> Iterator[Jobs]:
    """The same job store, as another process sees it."""
    with Database(database) as opened:
        yield Jobs(opened)


@pytest.mark.parametrize("ahead_s", [MINUTE_S, -MINUTE_S])
def test_a_lease_is_neither_taken_early_nor_kept_late(
    jobs: Jobs, others: Jobs, shifted: Shifted, ahead_s: float
) -> None:
    job = jobs.accept()
    _, token = jobs.take(lease_s=30)
    with shifted(ahead_s):
        assert others.claim() is None, "it is still held"
        assert others.leases.fail_spent(1, "it is gone") == []
        assert (others.leases.remaining_s(token) or 0) == pytest.approx(30, abs=20)
        assert others.leases.renew({token}, -0.01) == {token}, "a renewal that has already run out"
    until(lambda: (jobs.leases.remaining_s(token) or 0) < 0, "it has run out")
    with shifted(ahead_s):
        assert others.take()[0].id == job.id


@pytest.mark.parametrize("ahead_s", [MINUTE_S, -MINUTE_S])
def test_what_is_written_of_a_job_renews_its_lease_by_the_databases_clock(
    jobs: Jobs, shifted: Shifted, ahead_s: float
) -> None:
    jobs.accept()
    _, token = jobs.take()
    with shifted(ahead_s):
        assert jobs.advance(token, Stage.DENOISE, 10, replica="d1")
    assert (jobs.leases.remaining_s(token) or 0) == pytest.approx(60, abs=20)


@pytest.mark.parametrize("ahead_s", [MINUTE_S, -MINUTE_S])
def test_a_wait_is_as_long_as_was_said(jobs: Jobs, shifted: Shifted, ahead_s: float) -> None:
    job = jobs.accept()
    with shifted(ahead_s):
        assert jobs.leases.release(jobs.take()[1], for_s=0.001)
    until(lambda: jobs.claim(owner="c2") is not None, "it has waited", 30, every_s=0.01)
    with shifted(ahead_s):
        assert jobs.leases.release(jobs.get(job).lease_token or "", for_s=30)
    assert jobs.claim() is None
    with shifted(-ahead_s):
        assert jobs.claim() is None


@pytest.mark.parametrize("ahead_s", [MINUTE_S, -MINUTE_S])
def test_a_denoiser_works_for_as_long_as_its_lease(
    jobs: Jobs, shifted: Shifted, tmp_path: Path, ahead_s: float
) -> None:
    jobs.accept()
    job, token = jobs.take(lease_s=30)
    request = DenoiseRequest(
        job_id=job.id, model=job.model, node="denoise", parameters=get_card("ltx-tiny").default_parameters(),
        needed=frozenset({"denoise"}), input="x", token=token, denoiser="d1", checkpoint=None, revisions={},
    )  # fmt: skip
    fingerprint = Fingerprint(input="x", revision="r", state="s")
    writer = Writer()
    with shifted(ahead_s):
        Commits(jobs.leases, FolderStore(tmp_path), request, fingerprint, 5, writer).require_lease()
        jobs.leases.renew({token}, -1)
        with pytest.raises(Stopped):
            Commits(jobs.leases, FolderStore(tmp_path), request, fingerprint, 5, writer).require_lease()
    writer.close()


@pytest.mark.parametrize("ahead_s", [MINUTE_S, -MINUTE_S])
def test_a_denoiser_goes_to_a_job_whose_lease_is_valid(
    jobs: Jobs, others: Jobs, shifted: Shifted, ahead_s: float
) -> None:
    for _ in range(2):
        jobs.accept()
    dead, live = jobs.take()[1], jobs.take()[1]
    for token in (dead, live):
        assert jobs.advance(token, Stage.DENOISE, 1)
    jobs.leases.renew({live}, 30)
    jobs.leases.renew({dead}, -1)
    with shifted(ahead_s):
        assert others.allocation.assign("m", ["d1", "d2"], set()) == {}
    assert jobs.allocation.assign("m", ["d1", "d2"], {live}) == {live: "d1"}
    assert jobs.allocation.assign("m", ["d1", "d2"], {dead}) == {dead: "d2"}, "it had none"


@pytest.mark.parametrize("ahead_s", [MINUTE_S, -MINUTE_S])
def test_files_are_kept_for_as_long_as_was_said(jobs: Jobs, shifted: Shifted, ahead_s: float) -> None:
    short, long = jobs.accept(expires_in_s=-1.0), jobs.accept(expires_in_s=30.0)
    with shifted(ahead_s):
        for token in [jobs.take()[1] for _ in range(2)]:
            assert jobs.complete(token)
    for wrong in (0.0, ahead_s, -ahead_s):
        with shifted(wrong):
            assert [each.id for each in Retention(jobs.database).due()] == [short.id]
    assert jobs.get(long).expires_at == (jobs.get(long).completed_at or 0) + 30


@pytest.mark.parametrize("ahead_s", [MINUTE_S, -MINUTE_S])
def test_every_end_of_a_job_is_dated_by_the_databases_clock(jobs: Jobs, shifted: Shifted, ahead_s: float) -> None:
    completed, failed, canceled = (jobs.accept() for _ in range(3))
    tokens = [jobs.take()[1] for _ in range(3)]
    with shifted(ahead_s):
        assert jobs.complete(tokens[0])
        assert jobs.leases.fail(tokens[1], "x", "y")
        assert jobs.store.cancel(canceled.id)
    for job in (completed, failed, canceled):
        assert jobs.get(job).completed_at == pytest.approx(time.time(), abs=20)


def test_what_is_due_is_found_in_its_index(jobs: Jobs) -> None:
    """PostgreSQL looks nothing up in an index by a function that changes while the statement runs."""
    for due, index in (
        (select(webhooks.c.id).where(webhooks.c.delivered_at.is_(None), webhooks.c.next_at <= NOW), "next_at"),
        (select(table.c.id).where(KEPT, table.c.expires_at <= NOW), "expires_at"),
    ):
        query = due.compile(jobs.database.engine)
        with jobs.database.read() as connection:
            if jobs.database.is_sqlite:
                plan = [row.detail for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}")]
                assert any(f"{index}<?)" in step for step in plan), plan
            else:
                connection.exec_driver_sql("SET enable_seqscan = off")  # it prefers that for a table that is empty
                plan = list(connection.exec_driver_sql(f"EXPLAIN {query}").scalars())
                assert any(f"Index Cond: ({index} <= " in step for step in plan), plan


@pytest.mark.parametrize("ahead_s", [MINUTE_S, -MINUTE_S])
def test_a_webhook_is_sent_at_once_and_by_one_sender(
    jobs: Jobs, others: Jobs, shifted: Shifted, ahead_s: float
) -> None:
    jobs.accept(webhook_url="https://x.test")
    with shifted(ahead_s):
        assert jobs.complete(jobs.take()[1])
    with shifted(-ahead_s):
        [delivery] = Outbox(jobs.database).take(10, 10, [])
    with shifted(ahead_s):
        assert Outbox(others.database).take(10, 10, []) == [], "another one sends it"
        assert Outbox(jobs.database).failed(delivery, "it is away")
    assert Outbox(others.database).take(10, 10, []) == [], "it is not due yet"


@pytest.mark.parametrize("ahead_s", [2 * MINUTE_S, -2 * MINUTE_S])
def test_a_limit_holds_over_all_processes(jobs: Jobs, others: Jobs, shifted: Shifted, ahead_s: float) -> None:
    limits = Limits(requests_per_minute=1)
    accept(jobs.database, new_job(api_key="k"), limits)
    with shifted(ahead_s), pytest.raises(Refused):
        accept(others.database, new_job(api_key="k"), limits)


def test_a_claim_that_waited_takes_no_lease_that_ran_out_meanwhile(
    jobs: Jobs, others: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What held it up may have kept the others from renewing."""
    held = jobs.accept()
    _, token = jobs.take()
    begun, passed = Event(), DatabaseClock.passed

    def begin(clock: DatabaseClock) -> float:
        now = passed(clock)
        begun.set()
        return now

    monkeypatch.setattr(DatabaseClock, "passed", begin)
    with ThreadPoolExecutor(2) as pool, jobs.database.write() as connection:
        if not jobs.database.is_sqlite:
            connection.exec_driver_sql("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")
        waiting: list[Future[object]] = []
        for wait in (others.claim, lambda: others.leases.fail_spent(1, "it is gone")):
            begun.clear()
            waiting.append(pool.submit(wait))
            assert begun.wait(60)
        connection.execute(update(table).where(table.c.lease_token == token).values(lease_expires_at=NOW + 0.01))
        ran_out = select(table.c.lease_expires_at < NOW).where(table.c.lease_token == token)
        until(lambda: connection.execute(ran_out).scalar_one(), "it has run out")
        connection.commit()
        assert [bool(each.result(60)) for each in waiting] == [False, False]
    assert jobs.get(held).lease_token == token
    assert jobs.take()[0].id == held.id, "a claim that is sent now takes it"


def test_the_clock_of_a_transaction_does_not_stand_still(jobs: Jobs) -> None:
    with jobs.database.write() as connection:
        first = read_now(connection)
        assert first == pytest.approx(time.time(), abs=5)
        until(lambda: read_now(connection) > first, "time passes")
