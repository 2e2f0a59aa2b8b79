"""The interface of every artifact store, and the values that it takes and returns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

KEEP, KEEP_DAYS = "keep", (1, 7, 30, 90, 365)
"""The tag of objects that expire, and its values in days: a bucket's own rules know only such classes, not dates."""


@dataclass(frozen=True, slots=True)
class ObjectMetadata:
    """What a bucket stores with an object besides its bytes. A folder store ignores it."""

    file_name: str | None = None  # the name under which a browser saves it
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class UploadTarget:
    """The URL and headers with which a client uploads a file directly, bypassing the service."""

    url: str
    headers: Mapping[str, str]  # the client must send them unchanged


class ArtifactStore(Protocol):
    """Named blobs. Keys are relative paths with forward slashes; a put is atomic and replaces the previous object.

    A prefix ends in a slash; the empty prefix is the whole store. A listing may or may not include objects that are put
    or deleted during it. What cannot be stored or deleted raises `storage.errors.StorageUnavailable`, which may pass:
    the store is away, its disk is full, a file is not the service's to delete.
    """

    def put(self, key: str, data: bytes | Path, about: ObjectMetadata | None = None) -> None:
        """Store bytes, or the content of a file. Once this returns, the object is durable."""

    def create(self, key: str, data: bytes) -> bool:
        """Store bytes unless there is such a key; returns whether they were stored. Of several callers one succeeds."""

    def get(self, key: str) -> bytes:
        """Raises FileNotFoundError."""

    def size(self, key: str) -> int | None:
        """The object's size in bytes, or None when there is no such key."""

    def local_path(self, key: str) -> Path | None:
        """The file of a key, if the store is a folder of this machine and has the key."""

    def url(self, key: str) -> str | None:
        """A URL from which anyone can get the object for a while; None if only the service can serve it."""

    def upload_target(self, key: str, content_type: str, nbytes: int) -> UploadTarget | None:
        """A target to which anyone can PUT exactly such a file for a while; None if only the service can store it."""

    def list(self, prefix: str) -> Iterator[str]:
        """Every key under a prefix, sorted within each folder."""

    def children(self, prefix: str) -> Sequence[str]:
        """The names of the prefixes directly under a prefix, sorted; it does not list the keys under them.

        The result may still contain a prefix whose last key has just been deleted.
        """

    def delete(self, key: str) -> None:
        """Delete one key; it need not exist."""

    def delete_prefix(self, prefix: str) -> None:
        """Delete every key under a prefix, which must not be the whole store; there may be none.

        What can be deleted is, also if something cannot. Once this returns, nothing is left that was there before.
        """

    def abandon(self, older_than_s: float) -> None:
        """Abort unfinished puts that began more than `older_than_s` ago: they are invisible but cost money."""


def check_prefix(prefix: str, *, to_delete: bool = False) -> None:
    """Raise ValueError if this is not a prefix, or if a deletion would delete the whole store."""
    if to_delete and not prefix:
        raise ValueError("an empty prefix is the whole store; say what to delete")
    if prefix and not prefix.endswith("/"):
        raise ValueError(f"{prefix!r} is not a prefix; it must end in a slash")


def keep_class(seconds: float) -> str | None:
    """The value of the tag `keep` for files that stay this long; None if that is longer than every class."""
    return next((f"{days}d" for days in KEEP_DAYS if seconds <= days * 86400), None)
