"""Artifacts in a local folder: the embedded default, which needs no bucket.

A folder exists as long as it has a file, so one process may remove what another is about to write into. Every deletion
is therefore safe beside a put: the put makes its folder again.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from storage.artifacts import ObjectMetadata, UploadTarget, check_prefix

_PARTIAL = ".partial-"
_ATTEMPTS = 100
"""How often one put may lose its folder to a deletion. A folder that can never be made fails as fast."""


class FolderStore:
    """One file per key below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()

    def put(self, key: str, data: bytes | Path, about: ObjectMetadata | None = None) -> None:  # noqa: ARG002 see ObjectMetadata
        path = self.path(key)
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                _write(path, data)
            except (FileNotFoundError, FileExistsError):  # the latter from a mkdir whose folder is gone a moment later
                if attempt == _ATTEMPTS:
                    raise
            else:
                return

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
        for folder in path.parents:
            if folder == self.root:
                return
            try:
                folder.rmdir()
            except OSError:
                return  # in use, or gone already

    def delete_prefix(self, prefix: str) -> None:
        check_prefix(prefix, to_delete=True)
        shutil.rmtree(self._folder(prefix), ignore_errors=True)

    def abandon(self, older_than_s: float) -> None:
        """Nothing to do: the next put of the same key clears what the last left, and a deletion takes it along."""

    def path(self, key: str) -> Path:
        """The file of a key, which need not exist.

        Raises:
            ValueError: the key points outside the store.
        """
        path = (self.root / key).resolve()
        if not path.is_relative_to(self.root) or path == self.root:
            raise ValueError(f"{key!r} is not a key of this store")
        return path

    def _folder(self, prefix: str) -> Path:
        check_prefix(prefix)
        return self.path(prefix) if prefix else self.root


def _write(path: Path, data: bytes | Path) -> None:
    """Written beside its place and renamed, so that a reader sees the whole file or none."""
    mine = f"{_PARTIAL}{path.name}-"
    for abandoned in path.parent.iterdir():
        # Of a writer that was killed. From one that is at work it takes the file away too, which then begins anew.
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
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
    try:
        _flush(path.parent)
    except FileNotFoundError:
        pass  # the file was written, and then deleted with its folder: it must not come back


def _flush(folder: Path) -> None:
    """Make a new name in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _keys(folder: Path, prefix: str) -> Iterator[str]:
    folders, files = _entries(folder)
    # With its slash a folder sorts as the keys under it do: `a.png` comes before `a/b.png`.
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
        pass  # never there, or deleted meanwhile
    return folders, files
