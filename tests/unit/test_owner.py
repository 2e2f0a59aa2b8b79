"""Two job stores never share a folder of artifacts, unless an operator says that one of them is gone."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.__main__ import app
from cli.adopt import refuse_foreign_artifacts
from cli.service import default_config
from deployments.configuration.settings import Settings
from deployments.publisher import Publisher
from jobs.database import open_database, sqlite_url
from jobs.retention import Retention
from pipelines.errors import ConfigError
from storage.errors import ObjectDamaged, StorageUnavailable
from storage.folder import FolderStore
from storage.keys import JOB_STORE, checkpoint_key, video_key
from storage.owner import ForeignArtifacts, Ownership, owner_of
from storage.store import open_store, refuse_foreign
from tests.harness.owners import starts, that_starts
from tests.unit.api_world import run_api
from tests.unit.conductor_world import run_conductor
from tests.unit.conftest import Jobs, new_job


def test_of_job_stores_that_start_at_once_one_gets_the_artifacts(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    first = that_starts(store, "abcdefgh")
    assert owner_of(store) == first
    assert starts(store, first), "it may start again, from a backup too"


@pytest.mark.parametrize("error", [StorageUnavailable("away"), ObjectDamaged("what")])
def test_a_store_that_cannot_be_asked_is_not_taken_for_anothers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def away(*_: object) -> bytes:
        raise error

    monkeypatch.setattr(FolderStore, "get", away)
    assert refuse_foreign(None, tmp_path, "mine") is Ownership.UNKNOWN
    assert not (tmp_path / "artifacts" / JOB_STORE).exists()


@pytest.fixture
def data(tmp_path: Path, migrated_sqlite: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A KINORAY_DATA whose artifacts have an owner, and whose job store is another: somebody deleted its file."""
    monkeypatch.setenv("KINORAY_DATA", str(tmp_path))
    monkeypatch.delenv("KINORAY_DATABASE_URL", raising=False)
    with open_database(sqlite_url(tmp_path / "before.sqlite3")) as before:
        refuse_foreign(None, tmp_path, Retention(before).store_id())
    shutil.copy(migrated_sqlite, tmp_path / "jobs.sqlite3")
    return tmp_path


def test_a_service_does_not_start_on_the_artifacts_of_another_job_store(data: Path) -> None:
    owner = owner_of(open_store(None, data))
    with pytest.raises(ConfigError, match=rf"belong to another job store, {owner}, and .* `./kinoray adopt`"):
        refuse_foreign_artifacts(default_config())
    refused = CliRunner().invoke(app, ["serve"])
    assert isinstance(refused.exception, ConfigError)
    assert "adopt" in str(refused.exception)


def start_api(data: Path) -> None:
    with run_api(data):
        pass


def start_conductor(data: Path) -> None:
    async def run() -> None:
        async with run_conductor(data):
            pass

    asyncio.run(run())


def start_publisher(data: Path) -> None:  # noqa: ARG001 - it is KINORAY_DATA
    deployment: Any = Publisher

    async def run() -> None:
        deployment.func_or_class(Settings(models=("ltx-tiny",)))

    asyncio.run(run())


@pytest.mark.parametrize("start", [start_api, start_conductor, start_publisher])
def test_no_replica_that_stores_or_deletes_files_starts_on_them(
    data: Path, monkeypatch: pytest.MonkeyPatch, start: Callable[[Path], None]
) -> None:
    monkeypatch.delenv("KINORAY_WEBHOOK_SECRET", raising=False)
    owner, switch_s = owner_of(open_store(None, data)), sys.getswitchinterval()
    try:
        with pytest.raises(ForeignArtifacts, match=f"belong to another job store, {owner}, "):
            start(data)
    finally:
        sys.setswitchinterval(switch_s)  # which the API sets
    assert owner_of(open_store(None, data)) == owner


def test_an_operator_adopts_them_after_hearing_what_goes(data: Path) -> None:
    artifacts = open_store(None, data)
    theirs = [new_job() for _ in range(3)]
    for job in theirs:
        artifacts.put(video_key(job), b"mp4")
    artifacts.put(checkpoint_key(theirs[0].id, "denoise", 1, "t"), b"x")
    with open_database(sqlite_url(data / "jobs.sqlite3")) as database:
        mine = Jobs(database).accept(id=theirs[2].id)
        ours = Retention(database).store_id()
    owner = owner_of(artifacts)
    kept = CliRunner().invoke(app, ["adopt"], input="n\n")
    assert isinstance(kept.exception, ConfigError)
    assert owner_of(artifacts) == owner
    assert f"belong to the job store {owner}" in kept.stderr
    assert "no job for 2 folders of videos" in kept.stderr
    assert "live one for 1 of checkpoints" in kept.stderr
    for said in ("are now this job store's", "are already this job store's"):
        adopted = CliRunner().invoke(app, ["adopt", "--yes"])
        assert (adopted.exit_code, said in adopted.stderr) == (0, True), adopted.output
        assert owner_of(artifacts) == ours
    refuse_foreign_artifacts(default_config())
    assert artifacts.size(video_key(mine)) == 3, "nothing has gone yet"
