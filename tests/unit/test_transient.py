"""Which errors of a database are an outage, and which a fault of ours that no repetition mends."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import psycopg
import pytest
from psycopg import errors
from sqlalchemy import event, text
from sqlalchemy.exc import SQLAlchemyError

from jobs.database import UNREACHABLE, Database, sqlite_url
from jobs.transient import is_transient
from tests.unit.conftest import Jobs

PASSING = (
    "BUSY", "BUSY_SNAPSHOT", "LOCKED", "PROTOCOL", "FULL", "IOERR", "IOERR_WRITE", "READONLY", "CANTOPEN", "PERM",
    "NOMEM",
)  # fmt: skip
LASTING = (
    "ERROR", "SCHEMA", "CONSTRAINT", "CONSTRAINT_UNIQUE", "MISMATCH", "MISUSE", "RANGE", "TOOBIG", "CORRUPT", "NOTADB",
    "INTERRUPT", "AUTH",
)  # fmt: skip


def of_sqlite(name: str) -> sqlite3.Error:
    error = sqlite3.OperationalError("")
    error.sqlite_errorcode = getattr(sqlite3, f"SQLITE_{name}")
    return error


@pytest.mark.parametrize("name", [*PASSING, *LASTING])
def test_sqlite_says_by_its_code_what_may_pass(name: str) -> None:
    assert is_transient(of_sqlite(name)) is (name in PASSING)


@pytest.mark.parametrize(
    ("kind", "passes"),
    [
        (psycopg.OperationalError, True),  # it cannot be connected to
        (psycopg.InterfaceError, True),  # the connection is closed
        (psycopg.ProgrammingError, False),
        (errors.ConnectionFailure, True),
        (errors.SerializationFailure, True),
        (errors.DeadlockDetected, True),
        (errors.DiskFull, True),
        (errors.TooManyConnections, True),
        (errors.QueryCanceled, True),
        (errors.AdminShutdown, True),
        (errors.CannotConnectNow, True),
        (errors.IoError, True),
        (errors.LockNotAvailable, True),
        (errors.ReadOnlySqlTransaction, True),
        (errors.IdleInTransactionSessionTimeout, True),
        (errors.UndefinedColumn, False),
        (errors.UndefinedTable, False),
        (errors.SyntaxError, False),
        (errors.UniqueViolation, False),
        (errors.NumericValueOutOfRange, False),
        (errors.InsufficientPrivilege, False),
        (errors.StatementTooComplex, False),
        (errors.TooManyArguments, False),
        (errors.InFailedSqlTransaction, False),
        (errors.InternalError_, False),
        (errors.FeatureNotSupported, False),
    ],
)  # fmt: skip
def test_postgresql_says_by_its_sqlstate_what_may_pass(kind: type[psycopg.Error], passes: bool) -> None:
    assert is_transient(kind("")) is passes


WRONG = ("SELECT nothing FROM jobs", "SELECT id FROM nowhere", "SELEC", "INSERT INTO job_store (id) VALUES (NULL)")


@pytest.mark.parametrize("statement", WRONG)
def test_a_statement_that_is_wrong_is_no_outage(jobs: Jobs, statement: str) -> None:
    for transaction in (jobs.database.read, jobs.database.write):
        with pytest.raises(SQLAlchemyError) as raised, transaction() as connection:
            connection.execute(text(statement))
        assert not isinstance(raised.value, UNREACHABLE)
        assert "[parameters" not in str(raised.value)


def test_what_ends_a_connection_is_an_outage_and_the_next_transaction_has_another(jobs: Jobs) -> None:
    if jobs.database.is_sqlite:
        pytest.skip("SQLite has no connections that others end")
    with pytest.raises(UNREACHABLE), jobs.database.write() as connection:
        connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    with jobs.database.write() as connection:
        assert connection.execute(text("SELECT 1")).scalar_one() == 1


def test_a_locked_file_is_an_outage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.database.LOCKED_S", 0.05)
    url = sqlite_url(tmp_path / "jobs.sqlite3")
    with Database(url) as first, Database(url) as second, first.write(), pytest.raises(UNREACHABLE), second.write():
        pass


def test_a_folder_that_is_away_is_an_outage(tmp_path: Path) -> None:
    with Database(sqlite_url(tmp_path / "mounted" / "jobs.sqlite3")) as database:
        (tmp_path / "mounted").rmdir()
        with pytest.raises(UNREACHABLE), database.read() as connection:
            connection.execute(text("SELECT 1"))


def limit(database: Database, pages: int) -> None:
    """Let a SQLite file have so many pages: what a full disk does, on every machine."""
    database.close()
    event.listen(database.engine, "connect", lambda given, _: given.execute(f"PRAGMA max_page_count={pages}"))


def test_a_full_disk_is_an_outage_after_which_all_that_was_accepted_is_there(
    tmp_path: Path, migrated_sqlite: Path
) -> None:
    path = tmp_path / "jobs.sqlite3"
    path.write_bytes(migrated_sqlite.read_bytes())
    accepted: list[str] = []
    with Database(sqlite_url(path)) as database:
        jobs = Jobs(database)
        limit(database, path.stat().st_size // 4096 + 8)
        with pytest.raises(UNREACHABLE, match="full"):
            accepted.extend(jobs.accept(prompt="p" * 2000).id for _ in range(100))
        assert accepted
        assert [job.id for job in jobs.store.page(after=None, limit=99, newest_first=False)[0]] == accepted
        limit(database, 2**30)
        accepted.append(jobs.accept(prompt="p" * 2000).id)
        assert [job.id for job in jobs.store.page(after=None, limit=99, newest_first=False)[0]] == accepted
