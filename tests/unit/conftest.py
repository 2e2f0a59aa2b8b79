"""Both databases, for every test of the job store."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks.databases import create_database
from jobs.database import Database, sqlite_url


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database without tables."""
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "jobs.sqlite3")
    return create_database(request.getfixturevalue("postgres"), f"jobs_{uuid.uuid4().hex}")


@pytest.fixture
def connect() -> Iterator[Callable[[str], Database]]:
    """Opens a database, and closes it after the test."""
    with ExitStack() as opened:

        def run(url: str) -> Database:
            database = Database(url)
            opened.callback(database.close)
            return database

        yield run


@pytest.fixture
def database(empty_database: str, connect: Callable[[str], Database]) -> str:
    """The URL of a database with this version's tables."""
    connect(empty_database).migrate()
    return empty_database
