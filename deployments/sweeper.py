"""Deletes files that have had their time, and those that a dead process left behind. Doing it twice does no harm."""

from __future__ import annotations

import time
from collections.abc import Callable

from deployments.events import emit
from deployments.uploads import KEPT_S, is_outdated, is_upload_id
from jobs.database import Database
from jobs.record import is_job_id, made_at
from jobs.retention import Retention
from jobs.webhooks import Outbox
from storage.store import (
    CHECKPOINTS,
    UPLOADS,
    VIDEOS,
    ArtifactStore,
    checkpoint_prefix,
    delete_or_leave,
    job_prefix,
    upload_prefix,
)

ORPHANS_EVERY_S = 3600.0
ORPHAN_AGE_S = 3600.0
"""A request stores its image before its job is accepted; it does not take so long."""


class Sweeper:
    """One per publisher. Methods block."""

    def __init__(self, database: Database, artifacts: ArtifactStore) -> None:
        self._retention = Retention(database)
        self._outbox = Outbox(database)
        self._artifacts = artifacts
        self._orphans_at = time.monotonic() + ORPHANS_EVERY_S

    def sweep(self) -> None:
        """Delete what is due, and now and then look for files of no job, which takes a listing of every video."""
        self._retention.forget_old()
        self._outbox.forget_old()
        self.delete_expired()
        self.delete_checkpoints()
        if time.monotonic() >= self._orphans_at:
            self._orphans_at = time.monotonic() + ORPHANS_EVERY_S
            self.delete_orphans()
            self.delete_uploads()

    def delete_expired(self) -> None:
        """The files of completed jobs whose `expires_at` has passed; their records say so from then on."""
        kept = 0
        while len(due := self._retention.due()) > kept:
            kept = 0
            for job_id in due:
                if delete_or_leave(self._artifacts, job_prefix(job_id)):
                    self._retention.mark_expired(job_id)
                    emit("job.expired", job_id=job_id)
                else:
                    kept += 1  # it stays due; those after it need not wait for it

    def delete_checkpoints(self) -> None:
        """Checkpoints of jobs that have ended: a denoiser that nobody waited for may have written one later."""
        self._delete(checkpoint_prefix, self._retention.without_live_job(self._ids(CHECKPOINTS)))

    def delete_orphans(self, older_than_s: float = ORPHAN_AGE_S) -> None:
        """Files whose job is not there: of requests that died before acceptance, of jobs deleted or canceled."""
        old = [job_id for job_id in self._ids(VIDEOS) if made_at(job_id) < time.time() - older_than_s]
        self._delete(job_prefix, self._retention.without_job(old))

    def delete_uploads(self, older_than_s: float = KEPT_S) -> None:
        """Files that were uploaded a day ago. A job that uses one has a copy of its own."""
        for upload_id in self._artifacts.children(UPLOADS):
            if is_upload_id(upload_id) and is_outdated(upload_id, older_than_s):
                delete_or_leave(self._artifacts, upload_prefix(upload_id))

    def _ids(self, prefix: str) -> list[str]:
        return [name for name in self._artifacts.children(prefix) if is_job_id(name)]

    def _delete(self, prefix_of: Callable[[str], str], job_ids: set[str]) -> None:
        for job_id in sorted(job_ids):
            if delete_or_leave(self._artifacts, prefix_of(job_id)):
                emit("files.swept", job_id=job_id)
