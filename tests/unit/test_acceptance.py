"""What becomes of a job whose commit is not answered: stored once, or not at all, or the caller is told so."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from sqlalchemy import event, insert
from sqlalchemy.exc import OperationalError

from jobs import acceptance
from jobs.acceptance import OutcomeUnknown
from jobs.admission import Limits, Repeatable
from jobs.changes import tell
from jobs.database import UNREACHABLE, Database, serialize
from jobs.record import columns_of
from jobs.schema import jobs as table
from tests.unit.conftest import Jobs, new_job


def outage(database: Database) -> Exception:
    """The driver's error when the job store goes away."""
    if not database.is_sqlite:
        return psycopg.OperationalError("server closed the connection unexpectedly")
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR
    return error


@contextmanager
def commits(database: Database, lost: Callable[[Any, Callable[[Any], None]], None]) -> Iterator[None]:
    """Let `lost` take the place of a commit; it is given the driver's connection and what commits."""
    dialect: Any = database.engine.dialect
    commit = dialect.do_commit
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dialect, "do_commit", lambda connection: lost(connection, commit), raising=False)
        yield


@contextmanager
def away(database: Database) -> Iterator[None]:
    """Let no transaction begin."""

    def refuse(*_: object) -> None:
        raise OperationalError(None, None, outage(database))

    event.listen(database.engine, "begin", refuse, insert=True)
    try:
        yield
    finally:
        event.remove(database.engine, "begin", refuse)


def test_a_job_whose_commit_was_carried_out_is_accepted_once(jobs: Jobs) -> None:
    job, limits = new_job(), Limits(live_jobs=1, requests_per_minute=1)

    def answer_lost(connection: Any, commit: Callable[[Any], None]) -> None:
        commit(connection)
        if not lost:
            lost.append(True)
            raise outage(jobs.database)

    lost: list[bool] = []
    with commits(jobs.database, answer_lost):
        accepted = acceptance.accept(jobs.database, job, limits)
    assert lost
    assert accepted == jobs.get(job)
    assert [event.version for event in jobs.store.events(job.id, 0)] == [1]


def test_a_job_whose_commit_failed_is_not_stored_and_that_is_known(jobs: Jobs) -> None:
    job = new_job()

    def fail(connection: Any, commit: Callable[[Any], None]) -> None:
        if not failed:
            failed.append(True)
            raise outage(jobs.database)
        commit(connection)

    failed: list[bool] = []
    with commits(jobs.database, fail), pytest.raises(UNREACHABLE):
        acceptance.accept(jobs.database, job, Limits())
    assert failed
    assert jobs.store.get(job.id) is None
    assert acceptance.accept(jobs.database, job, Limits()).id == job.id


def test_if_nothing_can_be_looked_up_the_outcome_is_unknown(jobs: Jobs) -> None:
    job, key = new_job(), Repeatable("k", "f")

    def go_away(connection: Any, commit: Callable[[Any], None]) -> None:
        commit(connection)
        raise outage(jobs.database)

    with commits(jobs.database, go_away), pytest.raises(OutcomeUnknown):
        acceptance.accept(jobs.database, job, Limits(), key, look_for_s=0.5)
    assert acceptance.accept(jobs.database, new_job(), Limits(), key).id == job.id, "a repeat is given the same job"


def test_where_no_transaction_began_nothing_has_to_be_looked_up(jobs: Jobs) -> None:
    with away(jobs.database), pytest.raises(UNREACHABLE):
        acceptance.accept(jobs.database, new_job(), Limits(), look_for_s=0.1)


def test_a_transaction_that_is_still_under_way_is_waited_for(jobs: Jobs) -> None:
    """As a server that has not noticed yet that the connection is lost may still commit what it has."""
    job, inserted, found = new_job(version=1), threading.Event(), threading.Event()

    def commit_late() -> None:
        with jobs.database.write() as connection:
            serialize(connection, f"accept {job.model}")
            connection.execute(insert(table).values(**columns_of(job)))
            tell(connection, [job])
            inserted.set()
            found.wait(0.5)  # whoever does not wait for this has looked by then

    late = threading.Thread(target=commit_late)
    late.start()
    assert inserted.wait(60)
    stored = acceptance._look(jobs.database, job, 60)
    found.set()
    late.join()
    assert stored == job


def test_a_transaction_that_failed_before_its_commit_is_not_looked_for(jobs: Jobs) -> None:
    def go_away(_cursor: Any, statement: str, *_: object) -> None:
        if "INSERT INTO jobs " in statement:
            raise outage(jobs.database)
        execute(_cursor, statement, *_)

    dialect: Any = jobs.database.engine.dialect
    execute = dialect.do_execute
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dialect, "do_execute", go_away, raising=False)
        patch.setattr(acceptance, "_look", None)
        with pytest.raises(UNREACHABLE):
            acceptance.accept(jobs.database, new_job(), Limits())
