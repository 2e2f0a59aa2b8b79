"""Artifacts in a local folder: the embedded default, which needs no bucket.

A folder exists only while it has a file, so one process may remove a folder into which another is about to write. A put
therefore creates its folder again, so every deletion is safe during a put.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from storage.artifacts import ObjectMetadata, UploadTarget, check_prefix
from storage.errors import StorageUnavailable

_PARTIAL = ".partial-"
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ENOTEMPTY, errno.EEXIST)
"""Of a deletion: what another one has deleted, and what a put has stored since, or a failed deletion has left."""
_ATTEMPTS = 100
"""How often a put may lose its folder to a deletion. A folder that cannot be created at all fails just as fast."""


class FolderStore:
    """One file per key below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()

    def put(self, key: str, data: bytes | Path, about: ObjectMetadata | None = None) -> None:  # noqa: ARG002 see ObjectMetadata
        self._place(self.path(key), data, os.replace)

    def create(self, key: str, data: bytes) -> bool:
        path = self.path(key)
        if path.exists():
            return False
        try:
            self._place(path, data, _link)
        except _Taken:
            return False
        return True

    def get(self, key: str) -> bytes:
        return self.path(key).read_bytes()

    def size(self, key: str) -> int | None:
        path = self.path(key)
        return path.stat().st_size if path.is_file() else None

    def url(self, key: str) -> str | None:  # noqa: ARG002 it has none
        return None

    def upload_target(self, key: str, content_type: str, nbytes: int) -> UploadTarget | None:  # noqa: ARG002 it has none
        return None

    def local_path(self, key: str) -> Path | None:
        path = self.path(key)
        return path if path.is_file() else None

    def list(self, prefix: str) -> Iterator[str]:
        return _keys(self._folder(prefix), prefix)

    def children(self, prefix: str) -> Sequence[str]:
        return sorted(_entries(self._folder(prefix))[0])

    def delete(self, key: str) -> None:
        path = self.path(key)
        try:
            path.unlink()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return  # no such key
        except OSError as error:
            raise StorageUnavailable(f"a file cannot be deleted: {error.strerror}") from None
        self._remove_empty(path.parent)

    def delete_prefix(self, prefix: str) -> None:
        check_prefix(prefix, to_delete=True)
        kept: list[OSError] = []

        def note(_delete: object, _path: str, failed: tuple[type[BaseException], BaseException, object]) -> None:
            assert isinstance(failed[1], OSError)
            if failed[1].errno not in _GONE:
                kept.append(failed[1])

        shutil.rmtree(self._folder(prefix), onerror=note)
        if kept:
            raise StorageUnavailable(f"{len(kept)} files or folders cannot be deleted: {kept[0].strerror}")

    def abandon(self, older_than_s: float) -> None:
        """Do nothing: the next put of the same key removes a partial file, and so does a deletion of its folder."""

    def path(self, key: str) -> Path:
        """The file of a key, which need not exist.

        Raises:
            ValueError: the key points outside the store.
        """
        path = (self.root / key).resolve()
        if not path.is_relative_to(self.root) or path == self.root:
            raise ValueError(f"{key!r} is not a key of this store")
        return path

    def _place(self, path: Path, data: bytes | Path, move: Callable[[str, Path], None]) -> None:
        """Write a file, and make its folder again as often as a deletion takes it."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                _write(path, data, move)
            except (FileNotFoundError, FileExistsError):  # the latter when mkdir's folder vanishes at once
                if attempt == _ATTEMPTS:
                    raise
            except OSError as error:  # the disk is full, for one thing
                self._remove_empty(path.parent)
                raise StorageUnavailable(f"the folder of the artifacts cannot be written: {error.strerror}") from None
            else:
                return

    def _remove_empty(self, folder: Path) -> None:
        """Remove a folder, and those above it, as far as they are empty."""
        for each in (folder, *folder.parents):
            if each == self.root:
                return
            try:
                each.rmdir()
            except OSError:
                return  # it is in use, or already deleted

    def _folder(self, prefix: str) -> Path:
        check_prefix(prefix)
        return self.path(prefix) if prefix else self.root


class _Taken(Exception):
    """There is such a file already."""


def _link(partial: str, path: Path) -> None:
    """Give a file its name, unless another has it. Raises _Taken."""
    try:
        os.link(partial, path)
    except FileExistsError:
        raise _Taken from None
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise
        os.replace(partial, path)  # this file system has no links: two callers may both succeed
    else:
        Path(partial).unlink(missing_ok=True)  # another writer may have taken it for a killed one's


def _write(path: Path, data: bytes | Path, move: Callable[[str, Path], None]) -> None:
    """Write a temporary file beside the target and rename it, so that a reader sees the whole file or none."""
    mine = f"{_PARTIAL}{path.name}-"
    for abandoned in path.parent.iterdir():
        # The file of a killed writer. This also removes the file of a writer at work, which then starts again.
        if abandoned.name.startswith(mine):
            abandoned.unlink(missing_ok=True)
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=mine)
    try:
        with os.fdopen(handle, "wb") as file:
            if isinstance(data, Path):
                with data.open("rb") as source:
                    shutil.copyfileobj(source, file)
            else:
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
        move(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
    try:
        _flush(path.parent)
    except FileNotFoundError:
        pass  # the file was written and then deleted with its folder; the put must not restore it


def _flush(folder: Path) -> None:
    """Flush a folder to disk, so that a new name in it survives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _keys(folder: Path, prefix: str) -> Iterator[str]:
    folders, files = _entries(folder)
    # With its slash, a folder sorts like the keys under it: `a.png` comes before `a/b.png`.
    for name in sorted([*(name + "/" for name in folders), *files]):
        if name.endswith("/"):
            yield from _keys(folder / name, prefix + name)
        else:
            yield prefix + name


def _entries(folder: Path) -> tuple[set[str], set[str]]:
    """The names of the folders and of the files in a folder; none when it does not exist."""
    folders, files = set(), set()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir():
                    folders.add(entry.name)
                elif not entry.name.startswith(_PARTIAL):
                    files.add(entry.name)
    except (FileNotFoundError, NotADirectoryError):
        pass  # it never existed, or was deleted meanwhile
    return folders, files
