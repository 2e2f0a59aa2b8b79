"""Both databases, for every test of the job store."""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from deployments import metrics
from jobs.admission import Limits, accept
from jobs.allocation import Allocation
from jobs.changes import Position
from jobs.database import Database, open_database, sqlite_url
from jobs.ids import new_job_id
from jobs.leases import Leases, Rendered
from jobs.record import Job
from jobs.store import JobStore
from jobs.stored import ResultMetadata
from pipelines.stages import Stage
from tests.harness.databases import create_database

SQL = {
    "test_acceptance",
    "test_admission",
    "test_claims",
    "test_clock",
    "test_transient",
    "test_database",
    "test_jobs",
    "test_leases",
    "test_retention",
    "test_stored",
    "test_allocation",
    "test_webhooks",
    "test_stage_failures",
    "test_pins",
}
"""The tests whose subject is what the databases are asked. The others see PostgreSQL in the long tests only."""


@pytest.hookimpl(tryfirst=True)  # before those that were not asked for are left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        on = getattr(item, "callspec", None)
        if on is not None and on.params.get("database") == "postgresql" and item.path.stem not in SQL:
            item.add_marker(pytest.mark.long)


class Jobs:
    """A job store with everything that works on it, and short ways to say what most tests do."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.store = JobStore(database)
        self.leases = Leases(database)
        self.allocation = Allocation(database)

    def accept(self, **fields: Any) -> Job:
        """Store a queued job of model `m`."""
        return accept(self.database, new_job(**fields), Limits())

    def claim(self, *, model: str = "m", **options: Any) -> Job | None:
        claimed = self.leases.claim(
            model, **{"owner": "c1", "lease_s": 60.0, "max_attempts": 3, "capacity": 100, **options}
        )
        return claimed[0] if claimed else None

    def take(self, **options: Any) -> tuple[Job, str]:
        """Claim a job that must be there; returns it and its token."""
        claimed = self.claim(**options)
        assert claimed is not None
        assert claimed.lease_token is not None
        return claimed, claimed.lease_token

    def advance(
        self, token: str, stage: Stage, progress: int, step: int | None = None, replica: str | None = None
    ) -> bool:
        return token in self.leases.move({token: Position(stage, progress, step, replica, begins=True)}, 60)

    def complete(
        self, token: str, seconds: dict[str, float] | None = None, result_metadata: ResultMetadata | None = None
    ) -> bool:
        return token in self.leases.complete({token: Rendered(seconds or {}, result_metadata or ResultMetadata())})

    def get(self, job: Job) -> Job:
        found = self.store.get(job.id)
        assert found is not None
        return found


def new_job(**fields: Any) -> Job:
    values: dict[str, Any] = {
        "id": new_job_id(), "model": "m", "prompt": "p", "parameters": {"seed": 1}, "created_at": time.time(), **fields,
    }  # fmt: skip
    return Job(**values)


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
        yield lambda url: opened.enter_context(Database(url))


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("migrated") / "jobs.sqlite3"
    open_database(sqlite_url(path)).close()
    return path


@pytest.fixture(scope="session")
def migrated_postgresql(postgres: str) -> str:
    """The name of a database to copy: migrating one takes a second, copying it a tenth of that."""
    with Database(create_database(postgres, "migrated")) as database:
        database.migrate()
    return "migrated"


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database with this version's tables."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("migrated_sqlite"), tmp_path / "jobs.sqlite3")
        return sqlite_url(tmp_path / "jobs.sqlite3")
    template = request.getfixturevalue("migrated_postgresql")
    return create_database(request.getfixturevalue("postgres"), f"jobs_{uuid.uuid4().hex}", template)


@pytest.fixture
def jobs(database: str) -> Iterator[Jobs]:
    with open_database(database) as opened:
        yield Jobs(opened)


class Quiet:
    def observe(self, *_: object) -> None: ...

    def inc(self, *_: object) -> None: ...


@pytest.fixture
def no_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's metrics need a Ray; what is counted here is of no matter."""
    for name in ("stage_seconds", "stage_output_bytes"):
        monkeypatch.setattr(metrics, name, Quiet)
