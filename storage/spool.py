"""The spool of checkpoints while their bucket is unavailable: jobs continue, and a retry on the same node resumes."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from storage.artifacts import ArtifactStore, ObjectMetadata, UploadTarget
from storage.errors import StorageUnavailable
from storage.folder import FolderStore

log = logging.getLogger("ray.serve")

AWAY_S = 30.0
"""Seconds without puts to the bucket after a failed one: a stalled bucket would delay every checkpoint."""
KEPT_S, TIDY_EVERY_S = 24 * 3600.0, 600.0
"""The spool deletes files after `KEPT_S` seconds, because a process on another node that ends a job cannot delete them
here."""


class Spool:
    """A store in front of another: it holds what the other cannot take, up to `max_bytes`, and is read first.

    The spool is node-local and best effort. When it is full it deletes the oldest file. The stage that made a lost file
    makes it again, also when the node itself is lost.
    """

    def __init__(self, store: ArtifactStore, folder: Path, max_bytes: int) -> None:
        self._store = store
        self._spool = FolderStore(folder)
        self._max_bytes = max_bytes
        self._away_until = 0.0
        self._tidied_at = 0.0

    def put(self, key: str, data: bytes | Path, about: ObjectMetadata | None = None) -> None:
        if time.monotonic() >= self._away_until:
            try:
                self._store.put(key, data, about)
            except StorageUnavailable as error:
                log.warning("checkpoints go to %s for now: %s", self._spool.root, error)
                self._away_until = time.monotonic() + AWAY_S
            else:
                self._tidy()
                return
        self._make_room(len(data) if isinstance(data, bytes) else data.stat().st_size)
        self._spool.put(key, data)

    def create(self, key: str, data: bytes) -> bool:
        return self._store.create(key, data)  # what only one may do needs the one bucket

    def get(self, key: str) -> bytes:
        try:
            return self._spool.get(key)
        except FileNotFoundError:
            return self._store.get(key)

    def size(self, key: str) -> int | None:
        spooled = self._spool.size(key)
        return self._store.size(key) if spooled is None else spooled

    def local_path(self, key: str) -> Path | None:
        return self._spool.local_path(key)

    def url(self, key: str) -> str | None:
        return self._store.url(key)

    def upload_target(self, key: str, content_type: str, nbytes: int) -> UploadTarget | None:
        return self._store.upload_target(key, content_type, nbytes)

    def list(self, prefix: str) -> Iterator[str]:
        yield from sorted({*self._spool.list(prefix), *self._store.list(prefix)})

    def children(self, prefix: str) -> Sequence[str]:
        return sorted({*self._spool.children(prefix), *self._store.children(prefix)})

    def delete(self, key: str) -> None:
        if self._spool.size(key) is not None:
            self._spool.delete(key)
        elif time.monotonic() >= self._away_until:
            self._store.delete(key)  # while it is unavailable, the sweeper deletes it later

    def delete_prefix(self, prefix: str) -> None:
        try:
            self._spool.delete_prefix(prefix)
        finally:
            self._store.delete_prefix(prefix)

    def abandon(self, older_than_s: float) -> None:
        self._store.abandon(older_than_s)

    def _tidy(self) -> None:
        """Delete files that have been in the spool for too long."""
        if time.monotonic() - self._tidied_at >= TIDY_EVERY_S:
            self._tidied_at = time.monotonic()
            for key, stat in self._files().items():
                if stat.st_mtime < time.time() - KEPT_S:
                    self._drop(key)

    def _drop(self, key: str) -> bool:
        """Delete a file of the spool if that can be done: nothing depends on it."""
        try:
            self._spool.delete(key)
        except StorageUnavailable as error:
            log.warning("a checkpoint stays in the spool: %s", error)
            return False
        return True

    def _files(self) -> dict[str, os.stat_result]:
        found = {}
        for key in self._spool.list(""):
            try:
                found[key] = self._spool.path(key).stat()
            except FileNotFoundError:
                continue  # another replica on this node has deleted it
        return found

    def _make_room(self, nbytes: int) -> None:
        """Delete the oldest files until `nbytes` more fit. Raises StorageUnavailable if they cannot."""
        kept = self._files()
        total = sum(each.st_size for each in kept.values())
        for key in sorted(kept, key=lambda key: kept[key].st_mtime):
            if total + nbytes <= self._max_bytes:
                break
            if self._drop(key):
                total -= kept[key].st_size
        if total + nbytes > self._max_bytes:
            raise StorageUnavailable(f"the spool for checkpoints holds at most {self._max_bytes} bytes")
