"""The choice of a service's artifact store, and deletion from a store that may be unavailable."""

from __future__ import annotations

import logging
from pathlib import Path

from storage.artifacts import ArtifactStore
from storage.keys import Owner, prefixes_of
from storage.owner import Ownership, require_ours
from storage.settings import BucketSettings

log = logging.getLogger("ray.serve")


def delete_job(artifacts: ArtifactStore, job: Owner) -> None:
    """Delete everything that a job owns, including its checkpoints. The sweeper deletes what this cannot delete now."""
    for prefix in prefixes_of(job):
        delete_or_leave(artifacts, prefix)


def delete_or_leave(artifacts: ArtifactStore, prefix: str) -> bool:
    """Delete everything under a prefix; False when the store does not, and the sweeper will delete it."""
    try:
        artifacts.delete_prefix(prefix)
    except OSError as error:
        log.warning("what is under %s is left to the sweeper: %s", prefix, error)
        return False
    return True


def open_store(bucket: BucketSettings | None, data_dir: Path, *, fail_fast: bool = False) -> ArtifactStore:
    """Open the bucket that a service's settings name, else a folder beside the job store (the embedded default).

    `fail_fast` is for callers that answer a client: they report an unavailable bucket instead of letting it wait.
    """
    if bucket is not None:
        from storage.bucket import BucketStore  # imports boto3, which is not needed without a bucket

        return BucketStore(bucket, fail_fast=fail_fast)
    from storage.folder import FolderStore

    return FolderStore(data_dir / "artifacts")


def refuse_foreign(bucket: BucketSettings | None, data_dir: Path, store_id: str) -> Ownership:
    """See at the start of a process that the artifacts are this job store's, or nobody's: then they are from now on.

    A store that is away keeps nobody from starting; the sweeper asks again before it deletes anything.

    Raises:
        ForeignArtifacts: they are another job store's.
    """
    ownership = require_ours(open_store(bucket, data_dir, fail_fast=True), store_id)
    if ownership is Ownership.UNKNOWN:
        log.warning("whose artifacts these are cannot be read now; until it can, none is deleted")
    return ownership


def open_checkpoints(bucket: BucketSettings | None, data_dir: Path) -> ArtifactStore:
    """Open the store for a denoiser, which must not wait: a spool on the node takes what the bucket cannot take now."""
    if bucket is None:
        return open_store(None, data_dir)
    from storage.bucket import BucketStore
    from storage.spool import Spool

    return Spool(BucketStore(bucket, fail_fast=True), data_dir / "spool", bucket.spool_mib * 2**20)
