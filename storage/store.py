"""The interface every store of artifacts implements, and the keys they share."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class ArtifactStore(Protocol):
    """Named blobs. Keys are relative paths with forward slashes; a put is atomic and replaces what was there."""

    def put(self, key: str, data: bytes) -> None: ...

    def get(self, key: str) -> bytes:
        """Raises FileNotFoundError."""

    def size(self, key: str) -> int | None:
        """Bytes, or None when there is no such key."""

    def local_path(self, key: str) -> Path | None:
        """The file of a key, where the store is a folder of this machine and has it."""

    def delete_prefix(self, prefix: str) -> None:
        """Delete every key under a prefix; none is fine."""


def job_prefix(job_id: str) -> str:
    """Everything a job owns is under here."""
    return f"videos/{job_id}/"


def video_key(job_id: str) -> str:
    return job_prefix(job_id) + "video.mp4"


def input_key(job_id: str) -> str:
    return job_prefix(job_id) + "inputs/reference.png"


def local_store(data_dir: Path) -> ArtifactStore:
    """The embedded default: a folder beside the job store."""
    from storage.folder import FolderStore

    return FolderStore(data_dir / "artifacts")
