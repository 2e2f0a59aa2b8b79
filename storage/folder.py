"""Artifacts in a local folder: the embedded default, which needs no bucket."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path


class FolderStore:
    """One file per key below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()

    def put(self, key: str, data: bytes) -> None:
        path = self.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Written beside its place and renamed, so that a reader sees the whole file or none.
        handle, partial = tempfile.mkstemp(dir=path.parent, prefix=".partial-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
            _flush(path.parent)
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise

    def get(self, key: str) -> bytes:
        return self.path(key).read_bytes()

    def size(self, key: str) -> int | None:
        path = self.path(key)
        return path.stat().st_size if path.is_file() else None

    def delete_prefix(self, prefix: str) -> None:
        shutil.rmtree(self.path(prefix), ignore_errors=True)

    def path(self, key: str) -> Path:
        """The file of a key, which need not exist.

        Raises:
            ValueError: the key points outside the store.
        """
        path = (self.root / key).resolve()
        if not path.is_relative_to(self.root) or path == self.root:
            raise ValueError(f"{key!r} is not a key of this store")
        return path

    def local_path(self, key: str) -> Path | None:
        path = self.path(key)
        return path if path.is_file() else None


def _flush(folder: Path) -> None:
    """Make a new name in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
