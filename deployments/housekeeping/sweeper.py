"""Deletes expired files, and files that a dead process has left. Deleting twice does no harm."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping

from deployments.events import emit
from jobs.database import Database
from jobs.ids import UPLOAD_KEPT_S, is_job_id, is_outdated, is_upload_id, made_at
from jobs.retention import Retention
from jobs.webhooks import Outbox
from storage.artifacts import ArtifactStore
from storage.errors import StorageUnavailable
from storage.keys import (
    CHECKPOINTS,
    MAX_PARTS,
    UPLOADS,
    VIDEOS,
    checkpoint_prefix,
    job_prefix,
    upload_prefix,
)
from storage.owner import ForeignArtifacts, Ownership, require_ours
from storage.store import delete_or_leave

ORPHANS_EVERY_S = 3600.0
ORPHAN_AGE_S = 3600.0
"""The age from which files without a job are orphans: a request stores its image before its job is accepted, but the
time between is far shorter."""
UNFINISHED_AGE_S = 24 * 3600.0
"""The age from which an unfinished upload is abandoned: no upload takes this long."""

log = logging.getLogger("ray.serve")


class Sweeper:
    """Deletes what is due. Each publisher has one. Methods block."""

    def __init__(self, database: Database, artifacts: ArtifactStore) -> None:
        self._retention = Retention(database)
        self._outbox = Outbox(database)
        self._artifacts = artifacts
        self.foreign: ForeignArtifacts | None = None
        self._orphans_at = time.monotonic() + ORPHANS_EVERY_S

    def sweep(self) -> None:
        """Delete what is due, and every hour also files without a job, for which it must list every video."""
        self._retention.forget_old()
        self._outbox.forget_old()
        if not self.are_ours():
            return
        self.delete_expired()
        self.delete_checkpoints()
        if time.monotonic() >= self._orphans_at:
            self._orphans_at = time.monotonic() + ORPHANS_EVERY_S
            self.delete_orphans()
            self.delete_uploads()
            self.abandon_unfinished()

    def are_ours(self) -> bool:
        """Whether the artifacts belong to the jobs of this job store; if they have no owner, they do from now on.

        A job store that is new, or configured by mistake, knows none of the jobs whose videos are in the artifact
        store. Once the artifacts are known to be another's, `foreign` says so.
        """
        self.foreign = None
        try:
            ownership = require_ours(self._artifacts, self._retention.store_id())
        except ForeignArtifacts as foreign:
            self.foreign = foreign
            log.error("nothing is deleted: %s", foreign)
            return False
        if ownership is Ownership.UNKNOWN:
            log.warning("nothing is deleted for now: whose artifacts these are cannot be read")
        return ownership is Ownership.OURS

    def delete_expired(self) -> None:
        """Delete the files of completed jobs whose `expires_at` has passed, and mark these jobs as expired."""
        kept = 0
        while due := self._retention.due(skip=kept):
            for job in due:
                if delete_or_leave(self._artifacts, job_prefix(job)):
                    self._retention.mark_expired(job.id)
                    emit("job.expired", job_id=job.id)
                else:
                    kept += 1  # the job stays due; the jobs after it need not wait for it
        if kept:
            log.warning("the files of %d jobs that have expired could not be deleted; the next sweep tries again", kept)

    def delete_checkpoints(self) -> None:
        """Delete checkpoints of ended jobs: a denoiser for which no conductor waited may have written one later."""
        self._delete(self.outdated_checkpoints())

    def outdated_checkpoints(self) -> dict[str, str]:
        """The folders of checkpoints without a live job, by the job's id."""
        ids = [name for name in self._artifacts.children(CHECKPOINTS) if is_job_id(name)]
        return {job_id: checkpoint_prefix(job_id) for job_id in self._retention.without_live_job(ids)}

    def delete_orphans(self, older_than_s: float = ORPHAN_AGE_S) -> None:
        """Delete files without a job: from requests that died before acceptance, or jobs deleted or canceled."""
        self._delete(self.orphans(older_than_s))

    def orphans(self, older_than_s: float = ORPHAN_AGE_S) -> dict[str, str]:
        """The folders of files without a job, by the id that the job had."""
        folders = {job_id: prefix for job_id, prefix in self._folders() if made_at(job_id) < time.time() - older_than_s}
        return {job_id: folders[job_id] for job_id in self._retention.without_job(folders)}

    def delete_uploads(self, older_than_s: float = UPLOAD_KEPT_S) -> None:
        """Delete files that were uploaded a day ago. A job that uses one has its own copy."""
        for upload_id in self._artifacts.children(UPLOADS):
            if is_upload_id(upload_id) and is_outdated(upload_id, older_than_s):
                delete_or_leave(self._artifacts, upload_prefix(upload_id))

    def abandon_unfinished(self) -> None:
        """Abandon uploads that a killed publisher began; the next publisher of the job stored its files anew."""
        try:
            self._artifacts.abandon(UNFINISHED_AGE_S)
        except StorageUnavailable as error:
            log.warning("unfinished uploads are left to the next sweep: %s", error)

    def _folders(self) -> Iterator[tuple[str, str]]:
        """The ids and folders of jobs that have files, at whatever depth the folder template of the time put them."""
        ahead = [VIDEOS]
        while ahead:
            prefix = ahead.pop()
            for name in self._artifacts.children(prefix):
                folder = f"{prefix}{name}/"
                if is_job_id(name):
                    yield name, folder
                elif folder.count("/") <= MAX_PARTS:
                    ahead.append(folder)

    def _delete(self, prefixes: Mapping[str, str]) -> None:
        for job_id, prefix in sorted(prefixes.items()):
            if delete_or_leave(self._artifacts, prefix):
                emit("files.swept", job_id=job_id)
