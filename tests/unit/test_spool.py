"""A spool some of whose files cannot be deleted: what was asked for happens all the same."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from storage.errors import StorageUnavailable
from storage.folder import FolderStore
from storage.spool import Spool


class Stuck(FolderStore):
    """A folder one of whose files cannot be deleted."""

    stuck = "old/stuck"

    def delete(self, key: str) -> None:
        if key == self.stuck:
            raise StorageUnavailable(f"{key} cannot be deleted: Operation not permitted")
        super().delete(key)

    def delete_prefix(self, prefix: str) -> None:
        if self.stuck.startswith(prefix):
            raise StorageUnavailable(f"{self.stuck} cannot be deleted: Operation not permitted")
        super().delete_prefix(prefix)


class Away(FolderStore):
    def put(self, *_: object, **__: object) -> None:
        raise StorageUnavailable("the bucket is away")


@pytest.fixture
def stuck(tmp_path: Path) -> Stuck:
    """With two old files, the older of which stays."""
    files = Stuck(tmp_path / "spool")
    for age, key in enumerate(("old/other", Stuck.stuck), 1):
        files.put(key, bytes(100))
        os.utime(files.path(key), (1_000_000 - age, 1_000_000 - age))
    return files


def spool_of(files: Stuck, store: FolderStore, max_bytes: int = 10_000) -> Spool:
    spool = Spool(store, files.root, max_bytes)
    spool._spool = files
    return spool


def test_a_checkpoint_that_the_bucket_took_is_no_failure(stuck: Stuck, tmp_path: Path) -> None:
    spool = spool_of(stuck, FolderStore(tmp_path / "bucket"))
    spool.put("new", b"x")
    assert spool.get("new") == b"x"
    assert list(stuck.list("")) == [Stuck.stuck], "the other that was too old is gone"


def test_room_is_made_of_what_can_be_deleted(stuck: Stuck, tmp_path: Path) -> None:
    spool = spool_of(stuck, Away(tmp_path / "bucket"), max_bytes=250)
    spool.put("new", bytes(100))
    assert sorted(stuck.list("")) == ["new", Stuck.stuck]
    with pytest.raises(StorageUnavailable, match="at most 250 bytes"):
        spool.put("newer", bytes(200))


def test_what_the_bucket_has_is_deleted_though_the_spool_keeps_its_own(stuck: Stuck, tmp_path: Path) -> None:
    bucket = FolderStore(tmp_path / "bucket")
    bucket.put("old/there", b"x")
    with pytest.raises(StorageUnavailable, match="stuck"):
        spool_of(stuck, bucket).delete_prefix("old/")
    assert bucket.size("old/there") is None
