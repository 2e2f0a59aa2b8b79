"""The interface every store of artifacts implements, and the keys they share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

VIDEOS, CHECKPOINTS = "videos/", "checkpoints/"


class ArtifactStore(Protocol):
    """Named blobs. Keys are relative paths with forward slashes; a put is atomic and replaces what was there.

    A prefix ends in a slash; the empty one is the whole store. What is put or deleted during a listing may be in it or
    not.
    """

    def put(self, key: str, data: bytes) -> None: ...

    def get(self, key: str) -> bytes:
        """Raises FileNotFoundError."""

    def size(self, key: str) -> int | None:
        """Bytes, or None when there is no such key."""

    def local_path(self, key: str) -> Path | None:
        """The file of a key, where the store is a folder of this machine and has it."""

    def list(self, prefix: str) -> Iterator[str]:
        """Every key under a prefix, sorted."""

    def children(self, prefix: str) -> Sequence[str]:
        """The names of the prefixes directly under a prefix, sorted, without walking what is under them.

        One whose last key has just been deleted may still be named.
        """

    def delete(self, key: str) -> None:
        """Delete one key; none is fine."""

    def delete_prefix(self, prefix: str) -> None:
        """Delete every key under a prefix, which must not be the whole store; none is fine."""


def job_prefix(job_id: str) -> str:
    """Everything a job owns is under here, except its checkpoints."""
    return f"{VIDEOS}{job_id}/"


def video_key(job_id: str) -> str:
    return job_prefix(job_id) + "video.mp4"


def thumbnail_key(job_id: str) -> str:
    return job_prefix(job_id) + "thumbnail.webp"


def spritesheet_key(job_id: str) -> str:
    return job_prefix(job_id) + "spritesheet.webp"


def metadata_key(job_id: str) -> str:
    return job_prefix(job_id) + "metadata.json"


def input_key(job_id: str) -> str:
    return job_prefix(job_id) + "inputs/reference.png"


def checkpoint_prefix(job_id: str) -> str:
    """Apart from the videos, so that what an unfinished job leaves can be swept without walking every video."""
    return f"{CHECKPOINTS}{job_id}/"


def checkpoint_key(job_id: str, step: int, token: str) -> str:
    """A listing of a job's checkpoints is in the order of their steps. Two leases never write the same key."""
    return checkpoint_prefix(job_id) + f"{step:06d}-{token[:12]}.safetensors"


def delete_job(artifacts: ArtifactStore, job_id: str) -> None:
    """Delete everything that a job owns, its checkpoints too."""
    for prefix in (job_prefix(job_id), checkpoint_prefix(job_id)):
        artifacts.delete_prefix(prefix)


def local_store(data_dir: Path) -> ArtifactStore:
    """The embedded default: a folder beside the job store."""
    from storage.folder import FolderStore

    return FolderStore(data_dir / "artifacts")
