"""The folder store, and the keys of a job."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipelines.paths import ROOT
from storage.artifacts import ArtifactStore
from storage.errors import StorageUnavailable
from storage.folder import FolderStore
from storage.keys import checkpoint_key, checkpoint_prefix, download_name, job_folder, video_key
from storage.settings import BucketSettings
from storage.store import open_store
from tests.unit.conftest import new_job


def test_the_next_put_clears_away_what_a_killed_one_left(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    killed = "import os, pathlib, storage.folder as folder; folder.os.replace = lambda *_: os._exit(9); "
    killed += "folder.FolderStore(pathlib.Path(os.sys.argv[1])).put('videos/a/video.mp4', b'half')"
    assert subprocess.run([sys.executable, "-c", killed, tmp_path], cwd=ROOT).returncode == 9
    assert len(list(tmp_path.rglob(".partial-*"))) == 1
    store.put("videos/a/video.mp4", b"whole")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["video.mp4"]


@pytest.mark.parametrize("key", ["../x", "/etc/passwd", "a/../../x", ""])
def test_no_key_leads_outside(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="not a key"):
        FolderStore(tmp_path / "root").path(key)


def test_no_prefix_leads_outside(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "root")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").touch()
    for use in (store.list, store.children, store.delete_prefix):
        with pytest.raises(ValueError, match="not a key"):
            use("../outside/")
        with pytest.raises(ValueError, match="must end in a slash"):
            use("videos")
    with pytest.raises(ValueError, match="whole store"):
        store.delete_prefix("")
    assert (tmp_path / "outside" / "file").exists()


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    with pytest.raises(TypeError):
        store.put("videos/a/video.mp4", "text, not bytes")  # type: ignore[arg-type]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_lists_keys_in_their_order_and_the_names_directly_below(tmp_path: Path) -> None:
    store: ArtifactStore = open_store(None, tmp_path)
    assert (list(store.list("")), store.children("")) == ([], [])
    keys = ["top", "videos/a/inputs/x.png", "videos/a/video.mp4", "videos/a-b/video.mp4", "videos/a.txt", "videos/ab/v"]
    for key in keys:
        store.put(key, b"x")
    assert list(store.list("")) == sorted(keys)
    assert list(store.list("videos/a/")) == ["videos/a/inputs/x.png", "videos/a/video.mp4"], "and nothing of a-b or ab"
    assert list(store.list("videos/a/video.mp4/")) == list(store.list("videos/none/")) == []
    assert list(store.children("")) == ["videos"]
    assert list(store.children("videos/")) == ["a", "a-b", "ab"]


def test_a_file_being_written_is_not_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FolderStore(tmp_path)
    seen = []

    def replace(partial: str, path: Path, replace: Any = os.replace) -> None:
        assert Path(partial).read_bytes() == b"x", "the file is being written"
        seen.append(list(store.list("")))
        replace(partial, path)

    monkeypatch.setattr(os, "replace", replace)
    store.put("videos/a/video.mp4", b"x")
    assert seen == [[]]
    assert list(store.list("")) == ["videos/a/video.mp4"]


def test_deleting_a_key_leaves_its_neighbours_and_no_empty_folder(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    for step in (5, 10):
        store.put(checkpoint_key("a", "denoise", step, "t"), b"x")
    video = "videos/a/video.mp4"
    store.put(video, b"x")
    store.delete(checkpoint_key("a", "denoise", 5, "t"))
    store.delete(checkpoint_key("a", "denoise", 5, "t"))
    assert list(store.list("")) == [checkpoint_key("a", "denoise", 10, "t"), video]
    store.delete(checkpoint_prefix("a"))
    store.delete(video + "/no-such-folder")
    assert list(store.children("checkpoints/")) == ["a"], "a prefix is not a key"
    store.delete(checkpoint_key("a", "denoise", 10, "t"))
    assert list(store.children("")) == ["videos"]
    store.delete(video)
    assert tmp_path.is_dir()


def test_checkpoints_are_listed_in_the_order_of_their_steps(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    for step in (100, 9, 20):
        store.put(checkpoint_key("a", "denoise", step, "t"), b"x")
    assert list(store.list(checkpoint_prefix("a"))) == [
        checkpoint_key("a", "denoise", step, "t") for step in (9, 20, 100)
    ]
    store.delete_prefix("videos/a/")
    assert len(list(store.list(checkpoint_prefix("a")))) == 3, "checkpoints are not among a job's videos"


@pytest.mark.parametrize(("module", "function"), [(tempfile, "mkstemp"), (os, "replace")], ids=["made", "written into"])
def test_a_put_makes_its_folder_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, function: str
) -> None:
    """The folder goes between two steps of a put, which only luck would hit from another thread."""
    store = FolderStore(tmp_path)
    real, left = getattr(module, function), [1, 2, 3]

    def robbed(*args: Any, **kwargs: Any) -> Any:
        if left:
            left.pop()
            shutil.rmtree(tmp_path / "videos")
        return real(*args, **kwargs)

    monkeypatch.setattr(module, function, robbed)
    store.put("videos/a/video.mp4", b"x")
    assert left == []
    assert store.get("videos/a/video.mp4") == b"x"
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["video.mp4"]


def test_a_put_whose_file_was_deleted_at_once_does_not_bring_it_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FolderStore(tmp_path)

    def replace(partial: str, path: Path, replace: Any = os.replace) -> None:
        replace(partial, path)
        store.delete_prefix("videos/a/")

    monkeypatch.setattr(os, "replace", replace)
    store.put("videos/a/video.mp4", b"x")
    assert list(store.list("")) == []


def test_puts_succeed_beside_deletions(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    done = threading.Event()

    def sweep() -> None:
        swept = 0
        while not done.is_set():
            store.delete(checkpoint_key("a", "denoise", 1, "t"))
            if swept < 50:  # fewer than one put survives, however slow the disk
                store.delete_prefix(checkpoint_prefix("a"))
                swept += 1

    sweeper = threading.Thread(target=sweep)
    sweeper.start()
    try:
        for _ in range(50):
            store.put(checkpoint_key("a", "denoise", 1, "t"), b"x")
    finally:
        done.set()
        sweeper.join()
    store.put(checkpoint_key("a", "denoise", 1, "t"), b"last")
    assert store.get(checkpoint_key("a", "denoise", 1, "t")) == b"last"


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.put("videos", b"a file where a folder is needed")
    with pytest.raises(StorageUnavailable, match="cannot be written: Not a directory"):
        store.put("videos/a/b", b"x")


def test_of_many_that_create_a_key_one_does(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        created = list(pool.map(lambda name: store.create("mine", name.encode()), "abcdefgh"))
    assert created.count(True) == 1
    assert store.get("mine") == b"abcdefgh"[created.index(True) :][:1]
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_file_system_without_links_has_keys_created_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    store = FolderStore(tmp_path)
    assert [store.create("mine", b"a"), store.create("mine", b"b")] == [True, False]
    assert store.get("mine") == b"a"
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


FULL = """
import pathlib, resource, sys
from storage.errors import StorageUnavailable
from storage.errors import StorageUnavailable
from storage.folder import FolderStore
from storage.spool import Spool

class Away(FolderStore):
    def put(self, *_):
        raise StorageUnavailable("away")

root = pathlib.Path(sys.argv[1])
store = FolderStore(root)
store.put("videos/a/video.mp4", b"old")
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
for full in (store, Spool(Away(root / "away"), root / "spool", 2**20)):
    for key in ("videos/a/video.mp4", "uploads/b/file"):
        try:
            full.put(key, bytes(100_000))
        except StorageUnavailable as error:
            print(error)
store.put("uploads/c/file", bytes(1000))
"""


def test_a_full_disk_is_a_store_that_is_away_and_nothing_half_is_left(tmp_path: Path) -> None:
    """A limit on the size of files is what a process without rights can fill."""
    done = subprocess.run([sys.executable, "-c", FULL, tmp_path], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["the folder of the artifacts cannot be written: File too large"] * 4, (
        done.stderr
    )
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.name not in ("spool",))
    assert left == ["uploads", "uploads/c", "uploads/c/file", "videos", "videos/a", "videos/a/video.mp4"]
    assert FolderStore(tmp_path).get("videos/a/video.mp4") == b"old"


def test_what_cannot_be_deleted_is_an_error_and_the_rest_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FolderStore(tmp_path)
    for name in "abc":
        store.put(f"videos/a/{name}/file", b"x")
    unlink, rmdir = os.unlink, os.rmdir
    held = store.path("videos/a/b/file").stat().st_ino

    def refuse(path: str, *, dir_fd: int | None = None) -> None:
        if os.stat(path, dir_fd=dir_fd).st_ino == held:
            raise PermissionError(errno.EPERM, "Operation not permitted", path)
        unlink(path, dir_fd=dir_fd)

    def delete_twice(path: str, *, dir_fd: int | None = None) -> None:
        rmdir(path, dir_fd=dir_fd)
        rmdir(path, dir_fd=dir_fd)  # as if another had been faster

    monkeypatch.setattr(os, "unlink", refuse)
    monkeypatch.setattr(os, "rmdir", delete_twice)
    with pytest.raises(StorageUnavailable, match="1 files or folders cannot be deleted: Operation not permitted"):
        store.delete_prefix("videos/a/")
    assert list(store.list("")) == ["videos/a/b/file"]
    monkeypatch.setattr(Path, "unlink", lambda path: refuse(str(path)))
    with pytest.raises(StorageUnavailable, match="cannot be deleted"):
        store.delete("videos/a/b/file")
    held = 0
    store.delete_prefix("videos/a/")
    store.delete_prefix("videos/a/")
    assert list(store.list("")) == []


def test_a_template_gives_each_job_a_folder_of_its_own() -> None:
    accepted_at = 1_767_225_599.0  # a second before the end of 2025, in UTC
    folder = job_folder("date={date}/{model}/{id}", job_id="video_1", model="ltx-tiny", accepted_at=accepted_at)
    assert folder == "date=2025-12-31/ltx-tiny/video_1"
    assert video_key(new_job(id="video_1", folder=folder)) == f"videos/{folder}/video.mp4"
    assert video_key(new_job(id="video_1")) == "videos/video_1/video.mp4"
    assert download_name(f"videos/{folder}/thumbnail.webp") == "video_1.thumbnail.webp"


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{date}", "end in one that is {id}"),
        ("{model}-{id}", "end in one that is {id}"),
        ("/{id}", "end in one that is {id}"),
        ("a/b/c/d/e/f/g/h/{id}", "at most 8 parts"),
        ("{user}/{id}", "no such field: user; there are date, day, id, model, month, year"),
        ("{model!r}/{id}", "without a format"),
        ("{date/{id}", "in field name"),
        ("../{id}", "not a name"),
    ],
)
def test_another_template_is_refused(template: str, why: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(why)):
        BucketSettings(name="videos", folders=template)
