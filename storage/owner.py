"""Whose artifacts these are: an object among them names the job store whose jobs' files they are.

Two job stores on one prefix would delete each other's files, as files of no job. So a service neither accepts, renders
nor deletes anything where another's name stands. `kinoray adopt` writes its own.
"""

from __future__ import annotations

from enum import Enum, auto

from storage.artifacts import ArtifactStore
from storage.errors import ObjectDamaged, StorageUnavailable
from storage.keys import JOB_STORE


class Ownership(Enum):
    OURS = auto()
    UNKNOWN = auto()
    """The store cannot be asked now. Until it can, nothing is deleted."""


class ForeignArtifacts(RuntimeError):
    """The artifacts belong to another job store. The message says what to do."""


def owner_of(artifacts: ArtifactStore) -> str | None:
    """The id of the job store that the artifacts belong to; None if they are nobody's yet."""
    try:
        return artifacts.get(JOB_STORE).decode().strip()
    except FileNotFoundError:
        return None


def require_ours(artifacts: ArtifactStore, store_id: str) -> Ownership:
    """See that the artifacts are this job store's; those that are nobody's are from now on.

    Raises:
        ForeignArtifacts: they are another job store's.
    """
    try:
        if (owner := owner_of(artifacts)) is None:
            artifacts.create(JOB_STORE, store_id.encode())
            owner = owner_of(artifacts)  # another job store may have been faster
    except (StorageUnavailable, ObjectDamaged):
        return Ownership.UNKNOWN
    if owner is None:
        return Ownership.UNKNOWN  # it has just been deleted
    if owner != store_id:
        raise ForeignArtifacts(
            f"the artifacts belong to another job store, {owner}, and this one is {store_id}. Set KINORAY_DATABASE_URL"
            " to that job store, or give this one a bucket, a prefix or a KINORAY_DATA of its own. If that job store is"
            " gone for good and the files of its jobs may go too, `./kinoray adopt` takes them over"
        )
    return Ownership.OURS


def adopt(artifacts: ArtifactStore, store_id: str) -> None:
    """Make the artifacts this job store's, whosesoever they are. Raises StorageUnavailable."""
    artifacts.put(JOB_STORE, store_id.encode())
