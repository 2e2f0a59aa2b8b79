"""What every store of artifacts does, of the folder and of a bucket."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage.artifacts import ArtifactStore
from storage.folder import FolderStore
from storage.keys import checkpoint_key, checkpoint_prefix
from storage.spool import Spool


@pytest.fixture(params=["folder", "bucket", "spooled bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    if request.param == "folder":
        return FolderStore(tmp_path)
    bucket: ArtifactStore = request.getfixturevalue("bucket")
    return bucket if request.param == "bucket" else Spool(bucket, tmp_path, 2**20)


def test_keeps_replaces_and_deletes(store: ArtifactStore) -> None:
    store.put("videos/a/video.mp4", b"one")
    store.put("videos/a/video.mp4", b"three")
    store.put("videos/b/video.mp4", b"x")
    assert (store.get("videos/a/video.mp4"), store.size("videos/a/video.mp4")) == (b"three", 5)
    store.delete("videos/b/video.mp4")
    store.delete("videos/b/video.mp4")
    assert store.size("videos/b/video.mp4") is None
    store.delete_prefix("videos/a/")
    store.delete_prefix("videos/a/")
    assert store.size("videos/a/video.mp4") is None
    with pytest.raises(FileNotFoundError):
        store.get("videos/a/video.mp4")


def test_puts_what_a_file_holds(store: ArtifactStore, tmp_path: Path) -> None:
    file = tmp_path / "source"
    file.write_bytes(b"in a file" * 1000)
    store.put("videos/a/video.mp4", file)
    assert store.get("videos/a/video.mp4") == b"in a file" * 1000


def test_lists_keys_in_their_order_and_the_names_directly_below(store: ArtifactStore) -> None:
    assert (list(store.list("videos/")), list(store.children("videos/"))) == ([], [])
    keys = ["videos/a/inputs/x.png", "videos/a/video.mp4", "videos/a-b/video.mp4", "videos/a.txt", "videos/ab/v"]
    for key in keys:
        store.put(key, b"x")
    assert sorted(store.list("videos/")) == sorted(keys)
    assert list(store.list("videos/a/")) == ["videos/a/inputs/x.png", "videos/a/video.mp4"], "and nothing of a-b or ab"
    assert list(store.list("videos/a/video.mp4/")) == list(store.list("videos/none/")) == []
    assert list(store.children("videos/")) == ["a", "a-b", "ab"]
    for step in (100, 9, 20):
        store.put(checkpoint_key("a", "denoise", step, "t"), b"x")
    expected = [checkpoint_key("a", "denoise", step, "t") for step in (9, 20, 100)]
    assert list(store.list(checkpoint_prefix("a"))) == expected


def test_a_prefix_ends_in_a_slash_and_is_never_the_whole_store(store: ArtifactStore) -> None:
    for use in (store.list, store.children, store.delete_prefix):
        with pytest.raises(ValueError, match="must end in a slash"):
            list(use("videos") or ())
    with pytest.raises(ValueError, match="whole store"):
        store.delete_prefix("")
