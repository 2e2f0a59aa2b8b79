"""A create request that finds the disk full is told to come again, and leaves nothing half."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.harness.data_urls import data_url
from tests.unit.conftest import Jobs
from tests.unit.test_refusals import PNG, Front
from tests.unit.test_transient import limit

WITH_IMAGE = {"model": "svd-tiny", "input_reference": data_url(PNG)}


def test_an_image_that_finds_no_room_is_a_503_and_leaves_nothing(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    front = Front(jobs, tmp_path)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        refused = front.http.post("/v1/videos", json=WITH_IMAGE)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "unavailable")
    assert "x-should-retry" not in refused.headers
    assert front.stored() == []
    assert list((tmp_path / "artifacts").iterdir()) == [], "nor a half file, nor its folder"
    assert front.http.post("/v1/videos", json=WITH_IMAGE).status_code == 200


def test_a_job_store_that_finds_no_room_is_a_503_and_works_again_after(jobs: Jobs, tmp_path: Path) -> None:
    if not jobs.database.is_sqlite:
        pytest.skip("a limit that only SQLite has")
    front = Front(jobs, tmp_path)
    limit(jobs.database, (tmp_path / "jobs.sqlite3").stat().st_size // 4096)
    answers = [front.http.post("/v1/videos", json={"prompt": "p" * 900}).status_code for _ in range(20)]
    assert answers[-1] == 503
    limit(jobs.database, 2**30)
    assert front.http.post("/v1/videos", json={"prompt": "p"}).status_code == 200
    assert len(front.stored()) == answers.count(200) + 1
