"""The sweeper: files go when their time is up or nobody can want them, and no others do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deployments.sweeper import Sweeper
from deployments.uploads import BeginUpload, Uploads
from jobs.retention import Retention
from storage.folder import FolderStore
from storage.store import checkpoint_key, input_key, upload_key, video_key
from tests.unit.conftest import Jobs, new_job


@pytest.fixture
def artifacts(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "artifacts")


def complete(jobs: Jobs, artifacts: FolderStore, **fields: Any) -> str:
    job = jobs.accept(**fields)
    artifacts.put(video_key(job.id), b"mp4")
    jobs.leases.complete(jobs.take()[1], {}, {})
    return job.id


def test_files_go_when_their_time_is_up_and_the_record_says_so(jobs: Jobs, artifacts: FolderStore) -> None:
    short, long = complete(jobs, artifacts, expires_in_s=-1.0), complete(jobs, artifacts, expires_in_s=60.0)
    forever = complete(jobs, artifacts)
    sweeper = Sweeper(jobs.database, artifacts)
    sweeper.sweep()
    sweeper.sweep()
    assert list(artifacts.list("")) == sorted([video_key(long), video_key(forever)])
    expired = {job.id: job.expired for job in jobs.store.page(after=None, limit=9, newest_first=True)[0]}
    assert expired == {short: True, long: False, forever: False}
    assert Retention(jobs.database).due() == []


def test_a_sweeper_that_died_before_the_record_is_repeated(jobs: Jobs, artifacts: FolderStore) -> None:
    short = complete(jobs, artifacts, expires_in_s=-1.0)
    artifacts.delete_prefix(f"videos/{short}/")
    Sweeper(jobs.database, artifacts).delete_expired()
    assert jobs.store.page(after=None, limit=9, newest_first=True)[0][0].expired


def test_checkpoints_of_ended_and_unknown_jobs_go(jobs: Jobs, artifacts: FolderStore) -> None:
    done, live, unknown = complete(jobs, artifacts), jobs.accept().id, new_job().id
    for job_id in (done, live, unknown):
        artifacts.put(checkpoint_key(job_id, 5, "token"), b"x")
    Sweeper(jobs.database, artifacts).delete_checkpoints()
    assert list(artifacts.list("checkpoints/")) == [checkpoint_key(live, 5, "token")]


def test_files_of_no_job_go_once_no_request_can_be_at_work_on_them(jobs: Jobs, artifacts: FolderStore) -> None:
    known, unknown, canceled = complete(jobs, artifacts), new_job().id, jobs.accept().id
    jobs.store.cancel(canceled)
    for job_id in (unknown, canceled):
        artifacts.put(input_key(job_id), b"png")
    artifacts.put("videos/not-an-id/readme", b"somebody else's")
    sweeper = Sweeper(jobs.database, artifacts)
    sweeper.delete_orphans()
    assert artifacts.size(input_key(unknown)) is not None, "its request may still be on its way"
    sweeper.delete_orphans(older_than_s=-1)
    assert list(artifacts.list("")) == ["videos/not-an-id/readme", video_key(known)]


def test_uploads_go_after_a_day(jobs: Jobs, artifacts: FolderStore) -> None:
    upload = Uploads(artifacts, 100).begin(BeginUpload(bytes=1, mime_type="image/png"), "http://here/")
    artifacts.put(upload_key(upload.id), b"x")
    sweeper = Sweeper(jobs.database, artifacts)
    sweeper.delete_uploads()
    assert artifacts.size(upload_key(upload.id)) == 1
    sweeper.delete_uploads(older_than_s=-1)
    assert list(artifacts.list("")) == []
