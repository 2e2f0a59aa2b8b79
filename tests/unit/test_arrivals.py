"""Jobs that arrive together: one transaction, and the outcome of accepting them one after the other."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, select
from sqlalchemy.exc import OperationalError

from jobs import acceptance, admission, arrivals
from jobs.admission import KeyReused, Limits, Refused, Repeatable
from jobs.arrivals import Arrivals
from jobs.clock import read_now
from jobs.database import Database, open_database, sqlite_url
from jobs.intake import take_in
from jobs.priority import Priority
from jobs.record import Job
from jobs.schema import jobs as table
from jobs.schema import usage
from tests.harness.processes import until
from tests.unit.conftest import Jobs, new_job

PATIENCE_S = 60
NO_LIMITS = Limits()


@contextmanager
def begun(database: Database) -> Iterator[list[object]]:
    """Every transaction that begins meanwhile."""
    seen: list[object] = []

    def note(connection: object) -> None:
        seen.append(connection)

    event.listen(database.engine, "begin", note)
    try:
        yield seen
    finally:
        event.remove(database.engine, "begin", note)


class Stalled:
    """A clock that lets the first transaction stand still until the others have arrived."""

    def __init__(self) -> None:
        self.inside, self.go = threading.Event(), threading.Event()

    def __call__(self, connection: Any) -> float:
        self.inside.set()
        assert self.go.wait(PATIENCE_S)
        return read_now(connection)


def together(arrivals: Arrivals, pool: ThreadPoolExecutor, calls: list[Callable[[], Job]]) -> list[Any]:
    """Have calls made while a transaction runs, so that all of them wait; returns their futures."""
    stalled = Stalled()
    first = pool.submit(arrivals.accept, new_job(), NO_LIMITS, clock=stalled)
    assert stalled.inside.wait(PATIENCE_S)
    futures = [pool.submit(call) for call in calls]
    until(lambda: len(arrivals._waiting) == len(calls), "all wait", PATIENCE_S, 0.001)
    stalled.go.set()
    first.result(PATIENCE_S)
    return futures


def test_those_that_wait_are_written_in_one_transaction(jobs: Jobs) -> None:
    arrivals, asked = Arrivals(jobs.database), [new_job() for _ in range(12)]
    with ThreadPoolExecutor(13) as pool, begun(jobs.database) as transactions:
        futures = together(arrivals, pool, [lambda job=job: arrivals.accept(job, NO_LIMITS) for job in asked])  # type: ignore[misc]
        accepted = [each.result(PATIENCE_S) for each in futures]
    assert len(transactions) == 2
    assert [jobs.get(job) for job in asked] == accepted
    assert all([each.version for each in jobs.store.events(job.id, 0)] == [1] for job in asked)
    assert len({job.queue_rank for job in accepted}) == 12, "each has its own turn"


def test_one_that_is_refused_or_cannot_be_stored_harms_no_other(jobs: Jobs) -> None:
    arrivals = Arrivals(jobs.database)
    good, wrong, late = new_job(), new_job(prompt=object()), new_job()
    with ThreadPoolExecutor(4) as pool:
        calls = [
            lambda: arrivals.accept(good, NO_LIMITS), lambda: arrivals.accept(wrong, NO_LIMITS),
            lambda: arrivals.accept(late, Limits(max_queued=1)),
        ]  # fmt: skip
        first, second, third = together(arrivals, pool, calls)
        assert first.result(PATIENCE_S).id == good.id
        with pytest.raises(Exception, match=r"(?i)type|adapt"):
            second.result(PATIENCE_S)
        with pytest.raises(Refused):
            third.result(PATIENCE_S)
    assert jobs.get(good).id == good.id
    assert [jobs.store.get(job.id) for job in (wrong, late)] == [None, None]


def test_a_job_store_that_is_away_is_told_to_all_and_nothing_is_stored(jobs: Jobs) -> None:
    arrivals, asked = Arrivals(jobs.database), [new_job() for _ in range(3)]

    def away(*_: object) -> None:
        raise OperationalError("INSERT", {}, OSError())

    with ThreadPoolExecutor(4) as pool:
        stalled = Stalled()
        first = pool.submit(arrivals.accept, new_job(), NO_LIMITS, clock=stalled)
        assert stalled.inside.wait(PATIENCE_S)
        futures = [pool.submit(arrivals.accept, job, NO_LIMITS) for job in asked]
        until(lambda: len(arrivals._waiting) == 3, "all wait", PATIENCE_S, 0.001)
        event.listen(jobs.database.engine, "begin", away)
        stalled.go.set()
        first.result(PATIENCE_S)
        for each in futures:
            with pytest.raises(OperationalError):
                each.result(PATIENCE_S)
        event.remove(jobs.database.engine, "begin", away)
    assert [jobs.store.get(job.id) for job in asked] == [None] * 3
    assert arrivals.accept(asked[0], NO_LIMITS).id == asked[0].id, "it goes on afterwards"


def test_an_idempotency_key_stands_for_one_job_here_too(jobs: Jobs) -> None:
    arrivals, key = Arrivals(jobs.database), Repeatable("k", "same")
    first = arrivals.accept(new_job(), NO_LIMITS, key)
    assert acceptance.accept(jobs.database, new_job(), NO_LIMITS, key, admit=arrivals.accept).id == first.id
    with pytest.raises(KeyReused):
        arrivals.accept(new_job(), NO_LIMITS, Repeatable("k", "other"))


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize("seed", range(8))
def test_the_outcome_is_that_of_one_after_the_other(jobs: Jobs, tmp_path: Path, seed: int) -> None:
    """Of several models, keys and classes, with limits that some reach and with a queue that has begun."""
    luck = random.Random(seed)

    def some(count: int) -> list[tuple[Job, Limits]]:
        limits = Limits(
            max_queued=luck.choice([None, 9]), max_backlog_s=luck.choice([None, 150.0]),
            live_jobs=luck.choice([None, 6]),
            requests_per_minute=luck.choice([None, 7]), gpu_seconds_per_day=luck.choice([None, 200.0]),
        )  # fmt: skip
        return [
            (
                new_job(
                    model=luck.choice("ab"), api_key=luck.choice("xyz"), priority=luck.choice(list(Priority)),
                    work={"denoise": luck.random()} if luck.random() < 0.3 else {},
                ),
                limits,
            )
            for _ in range(count)
        ]  # fmt: skip

    def now(_: object) -> float:
        return 1e9

    earlier, asked = some(luck.choice([0, 5])), some(25)
    with open_database(sqlite_url(tmp_path / "other.sqlite3")) as other:
        for database in (jobs.database, other):
            for job, _ in earlier:
                admission.accept(database, job, NO_LIMITS, clock=now)
        one_by_one: list[str] = []
        for job, limits in asked:
            try:
                one_by_one.append(admission.accept(other, job, limits, clock=now).id)
            except Refused as refused:
                one_by_one.append(f"{refused.limit} {refused.retry_after_s:.6f}")
        with jobs.database.write() as connection:
            outcomes = take_in(connection, asked, 1e9)
        assert [
            each.id if isinstance(each, Job) else f"{each.limit} {each.retry_after_s:.6f}" for each in outcomes
        ] == one_by_one
        columns = table.c.id, table.c.version, table.c.fair_start, table.c.queue_rank, table.c.cost_s
        counted = usage.c.api_key, usage.c.minute, usage.c.requests
        for query in (select(*columns).order_by(table.c.id), select(*counted).order_by(usage.c.api_key)):
            with jobs.database.read() as here, other.read() as there:
                found, expected = here.execute(query).all(), there.execute(query).all()
            assert [row[:2] for row in found] == [row[:2] for row in expected]
            assert [row[2:] for row in found] == [pytest.approx(row[2:]) for row in expected]


def test_nobody_is_left_behind_though_more_come_first_than_one_transaction_takes(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two have put themselves down and get no turn before the third, which one transaction does not reach."""
    monkeypatch.setattr(arrivals, "AT_ONCE", 2)
    third_is_done = threading.Event()

    class Turn:
        lock = threading.Lock()

        def __enter__(self) -> None:
            if threading.current_thread().name != "third":
                assert third_is_done.wait(PATIENCE_S)
            self.lock.acquire()

        def __exit__(self, *_: object) -> None:
            self.lock.release()

    accepting, accepted = Arrivals(jobs.database), []

    def accept() -> None:
        accepted.append(accepting.accept(new_job(), NO_LIMITS).id)
        third_is_done.set()

    monkeypatch.setattr(accepting, "_turn", Turn())
    threads = [threading.Thread(target=accept, name=name, daemon=True) for name in ("first", "second", "third")]
    for count, thread in enumerate(threads, 1):
        thread.start()
        if count < 3:
            until(lambda count=count: len(accepting._waiting) == count, "a job that waits")  # type: ignore[misc]
    for thread in threads:
        thread.join(PATIENCE_S)
    assert len(accepted) == 3
