"""The sweeper: files go when their time is up or nobody can want them, and no others do."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import Any

import pytest

from deployments.housekeeping.sweeper import Sweeper
from jobs.database import open_database, sqlite_url
from jobs.ids import new_job_id, new_upload_id
from jobs.record import Job
from jobs.retention import Retention
from storage.folder import FolderStore
from storage.keys import JOB_STORE, MAX_PARTS, checkpoint_key, input_key, job_folder, job_prefix, upload_key, video_key
from tests.unit.conftest import Jobs, new_job


@pytest.fixture
def artifacts(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "artifacts")


def complete(jobs: Jobs, artifacts: FolderStore, **fields: Any) -> Job:
    job = jobs.accept(**fields)
    artifacts.put(video_key(job), b"mp4")
    jobs.complete(jobs.take()[1])
    return job


def test_files_go_when_their_time_is_up_and_the_record_says_so(jobs: Jobs, artifacts: FolderStore) -> None:
    short, long = complete(jobs, artifacts, expires_in_s=-1.0), complete(jobs, artifacts, expires_in_s=60.0)
    forever = complete(jobs, artifacts)
    sweeper = Sweeper(jobs.database, artifacts)
    sweeper.sweep()
    sweeper.sweep()
    assert list(artifacts.list("videos/")) == sorted([video_key(long), video_key(forever)])
    expired = {job.id: job.expired for job in jobs.store.page(after=None, limit=9, newest_first=True)[0]}
    assert expired == {short.id: True, long.id: False, forever.id: False}
    assert Retention(jobs.database).due() == []


def test_a_sweeper_that_died_before_the_record_is_repeated(jobs: Jobs, artifacts: FolderStore) -> None:
    short = complete(jobs, artifacts, expires_in_s=-1.0)
    artifacts.delete_prefix(job_prefix(short))
    Sweeper(jobs.database, artifacts).delete_expired()
    assert jobs.store.page(after=None, limit=9, newest_first=True)[0][0].expired


def test_files_that_cannot_be_deleted_are_tried_again_and_hold_up_no_others(
    jobs: Jobs, artifacts: FolderStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stuck, free = (complete(jobs, artifacts, expires_in_s=-1.0) for _ in range(2))
    unlink, held = os.unlink, {artifacts.path(video_key(stuck)).stat().st_ino}
    monkeypatch.setattr("jobs.retention.IDS_AT_ONCE", 1)

    def refuse(path: str, *, dir_fd: int | None = None) -> None:
        if os.stat(path, dir_fd=dir_fd).st_ino in held:
            raise PermissionError(errno.EPERM, "Operation not permitted", path)
        unlink(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", refuse)
    sweeper = Sweeper(jobs.database, artifacts)
    sweeper.sweep()
    assert [jobs.get(each).expired for each in (stuck, free)] == [False, True]
    assert "1 jobs that have expired could not be deleted" in caplog.text
    assert artifacts.size(video_key(stuck)) == 3
    held.clear()
    sweeper.sweep()
    assert jobs.get(stuck).expired
    assert list(artifacts.list("videos/")) == []


def test_checkpoints_of_ended_and_unknown_jobs_go(jobs: Jobs, artifacts: FolderStore) -> None:
    done, live, unknown = complete(jobs, artifacts), jobs.accept(), new_job()
    for job in (done, live, unknown):
        artifacts.put(checkpoint_key(job.id, "denoise", 5, "token"), b"x")
    Sweeper(jobs.database, artifacts).delete_checkpoints()
    assert list(artifacts.list("checkpoints/")) == [checkpoint_key(live.id, "denoise", 5, "token")]


def test_a_sweeper_of_another_job_store_takes_no_files_for_those_of_no_job(
    jobs: Jobs, artifacts: FolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = jobs.accept()
    artifacts.put(checkpoint_key(live.id, "denoise", 5, "token"), b"x")
    ours = Sweeper(jobs.database, artifacts)
    upload = upload_key(new_upload_id())
    artifacts.put(upload, b"x")
    assert ours.are_ours(), "what is nobody's is its own from now on"
    monkeypatch.setattr("deployments.housekeeping.sweeper.ORPHANS_EVERY_S", -1.0)
    monkeypatch.setattr("deployments.housekeeping.sweeper.is_outdated", lambda *_: True)
    with open_database(sqlite_url(tmp_path / "another.db")) as empty:
        other = Sweeper(empty, artifacts)
        other.sweep()
        assert not other.are_ours()
        assert "kinoray adopt" in str(other.foreign)
    assert artifacts.size(checkpoint_key(live.id, "denoise", 5, "token")) == artifacts.size(upload) == 1
    assert ours.foreign is None
    jobs.store.cancel(live.id)
    ours.sweep()
    assert list(artifacts.list("")) == [JOB_STORE, upload]


@pytest.mark.parametrize("template", ["{id}", "{date}/{model}/{id}", "/".join(["{year}"] * (MAX_PARTS - 1) + ["{id}"])])
def test_files_of_no_job_go_once_no_request_can_be_at_work_on_them(
    jobs: Jobs, artifacts: FolderStore, template: str
) -> None:
    known, canceled = complete(jobs, artifacts, **placed(template)), jobs.accept(**placed(template))
    unknown = new_job(**placed(template))
    jobs.store.cancel(canceled.id)
    for job in (unknown, canceled):
        artifacts.put(input_key(job), b"png")
    artifacts.put("videos/not-an-id/readme", b"somebody else's")
    sweeper = Sweeper(jobs.database, artifacts)
    sweeper.delete_orphans()
    assert artifacts.size(input_key(unknown)) is not None, "its request may still be on its way"
    sweeper.delete_orphans(older_than_s=-1)
    assert sorted(artifacts.list("")) == sorted(["videos/not-an-id/readme", video_key(known)])


def placed(template: str) -> dict[str, str]:
    job_id = new_job_id()
    return {"id": job_id, "folder": job_folder(template, job_id=job_id, model="m", accepted_at=time.time())}


def test_uploads_go_after_a_day(jobs: Jobs, artifacts: FolderStore) -> None:
    upload = new_upload_id()
    artifacts.put(upload_key(upload), b"x")
    sweeper = Sweeper(jobs.database, artifacts)
    sweeper.delete_uploads()
    assert artifacts.size(upload_key(upload)) == 1
    sweeper.delete_uploads(older_than_s=-1)
    assert list(artifacts.list("")) == []
