"""The folder store."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage.folder import FolderStore


def test_keeps_replaces_and_deletes(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.put("videos/a/video.mp4", b"one")
    store.put("videos/a/video.mp4", b"three")
    store.put("videos/b/video.mp4", b"x")
    assert (store.get("videos/a/video.mp4"), store.size("videos/a/video.mp4")) == (b"three", 5)
    store.delete_prefix("videos/a/")
    store.delete_prefix("videos/a/")
    assert store.size("videos/a/video.mp4") is None
    assert store.size("videos/b/video.mp4") == 1
    with pytest.raises(FileNotFoundError):
        store.get("videos/a/video.mp4")


@pytest.mark.parametrize("key", ["../x", "/etc/passwd", "a/../../x", ""])
def test_no_key_leads_outside(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="not a key"):
        FolderStore(tmp_path / "root").path(key)


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    with pytest.raises(TypeError):
        store.put("videos/a/video.mp4", "text, not bytes")  # type: ignore[arg-type]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
