"""Which store of artifacts a service uses, and what is deleted of one that may be out of reach."""

from __future__ import annotations

import logging
from pathlib import Path

from storage.artifacts import ArtifactStore
from storage.errors import StorageUnavailable
from storage.keys import Owner, prefixes_of
from storage.settings import BucketSettings

log = logging.getLogger("ray.serve")


def delete_job(artifacts: ArtifactStore, job: Owner) -> None:
    """Delete everything that a job owns, its checkpoints too. What cannot be deleted now is left to the sweeper."""
    for prefix in prefixes_of(job):
        delete_or_leave(artifacts, prefix)


def delete_or_leave(artifacts: ArtifactStore, prefix: str) -> bool:
    """Delete what is under a prefix; False when it is left to the sweeper, as the store cannot be used."""
    try:
        artifacts.delete_prefix(prefix)
    except StorageUnavailable as error:
        log.warning("what is under %s is left to the sweeper: %s", prefix, error)
        return False
    return True


def open_store(bucket: BucketSettings | None, data_dir: Path, *, fail_fast: bool = False) -> ArtifactStore:
    """The bucket that a service's settings name, else a folder beside the job store: the embedded default.

    `fail_fast` is for one who answers a client, and rather says that the bucket cannot be reached than to let it wait.
    """
    if bucket is not None:
        from storage.bucket import BucketStore  # boto3, which nobody needs who has no bucket

        return BucketStore(bucket, fail_fast=fail_fast)
    from storage.folder import FolderStore

    return FolderStore(data_dir / "artifacts")


def open_checkpoints(bucket: BucketSettings | None, data_dir: Path) -> ArtifactStore:
    """The same for a denoiser, which must not wait: what a bucket does not take now goes into a spool of the node."""
    if bucket is None:
        return open_store(None, data_dir)
    from storage.bucket import BucketStore
    from storage.spool import Spool

    return Spool(BucketStore(bucket, fail_fast=True), data_dir / "spool", bucket.spool_mib * 2**20)
