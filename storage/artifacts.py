"""The interface that every store of artifacts implements, and the values that it takes and gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

KEEP, KEEP_DAYS = "keep", (1, 7, 30, 90, 365)
"""The tag of what is to go some time, and its values: a bucket's own rules know no dates, only such classes."""


@dataclass(frozen=True, slots=True)
class ObjectMetadata:
    """What a bucket shows of an object beside its bytes. A folder has no place for it."""

    file_name: str | None = None  # what a browser saves it as
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class UploadTarget:
    """Where and how a file is sent that does not pass through the service."""

    url: str
    headers: Mapping[str, str]  # which have to be sent as they are


class ArtifactStore(Protocol):
    """Named blobs. Keys are relative paths with forward slashes; a put is atomic and replaces what was there.

    A prefix ends in a slash; the empty one is the whole store. What is put or deleted during a listing may be in it or
    not. A store that cannot be used for now raises OSError: `storage.errors.StorageUnavailable` where it is a bucket.
    """

    def put(self, key: str, data: bytes | Path, about: ObjectMetadata | None = None) -> None:
        """Store bytes, or what a file holds. Once this returns they are there to stay."""

    def get(self, key: str) -> bytes:
        """Raises FileNotFoundError."""

    def size(self, key: str) -> int | None:
        """Bytes, or None when there is no such key."""

    def local_path(self, key: str) -> Path | None:
        """The file of a key, where the store is a folder of this machine and has it."""

    def url(self, key: str) -> str | None:
        """An address from which anybody can get an object for a while; None where there is none but the service's."""

    def upload_target(self, key: str, content_type: str, nbytes: int) -> UploadTarget | None:
        """Where anybody can PUT just such a file for a while; None where only the service can."""

    def list(self, prefix: str) -> Iterator[str]:
        """Every key under a prefix, those of one folder in their order."""

    def children(self, prefix: str) -> Sequence[str]:
        """The names of the prefixes directly under a prefix, sorted, without walking what is under them.

        One whose last key has just been deleted may still be named.
        """

    def delete(self, key: str) -> None:
        """Delete one key; none is fine."""

    def delete_prefix(self, prefix: str) -> None:
        """Delete every key under a prefix, which must not be the whole store; none is fine."""

    def abandon(self, older_than_s: float) -> None:
        """Give up what somebody began to put so long ago and never finished. Nobody can see it, but it is paid for."""


def check_prefix(prefix: str, *, to_delete: bool = False) -> None:
    """Raise ValueError for what is no prefix, or is the whole store and would be deleted."""
    if to_delete and not prefix:
        raise ValueError("an empty prefix is the whole store; say what to delete")
    if prefix and not prefix.endswith("/"):
        raise ValueError(f"{prefix!r} is not a prefix; it must end in a slash")


def keep_class(seconds: float) -> str | None:
    """The value of the tag `keep` for files that stay so long; None for longer than any."""
    return next((f"{days}d" for days in KEEP_DAYS if seconds <= days * 86400), None)
