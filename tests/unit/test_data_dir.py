"""The folder of the service's data: made if it can be, and named with what to do if it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.__main__ import app
from cli.job_store import latest_jobs
from deployments.configuration.settings import require_data_dir
from jobs.admission import Limits, accept
from jobs.database import open_database, sqlite_url
from pipelines.errors import ConfigError
from tests.unit.conftest import new_job


def test_it_is_made_with_what_leads_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KINORAY_DATA", str(tmp_path / "a" / "b"))
    assert require_data_dir() == tmp_path / "a" / "b"
    assert list((tmp_path / "a" / "b").iterdir()) == []


@pytest.mark.parametrize(("below", "why"), [("file", "is no folder"), ("file/below", "cannot be written")])
def test_a_place_that_cannot_be_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, below: str, why: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("KINORAY_DATA", str(tmp_path / below))
    monkeypatch.delenv("KINORAY_DATABASE_URL", raising=False)
    for look in (require_data_dir, lambda: latest_jobs(1)):
        with pytest.raises(ConfigError, match="KINORAY_DATA names it: set KINORAY_DATA to another folder") as refused:
            look()
        assert f"{tmp_path / below}, where the service keeps its data, {why}" in refused.value.message


def test_jobs_are_listed_the_latest_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KINORAY_DATA", str(tmp_path))
    monkeypatch.delenv("KINORAY_DATABASE_URL", raising=False)
    with open_database(sqlite_url(tmp_path / "jobs.sqlite3")) as database:
        ids = [accept(database, new_job(), Limits()).id for _ in range(3)]
    listed = CliRunner().invoke(app, ["jobs", "--limit", "2"])
    assert (listed.exit_code, listed.output.splitlines()) == (0, [f"{each}  m  queued  0" for each in ids[:0:-1]])
    assert CliRunner().invoke(app, ["jobs", "--dead"]).output == ""
