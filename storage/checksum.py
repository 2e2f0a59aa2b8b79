"""SHA-256 of an object as S3 states it: of the whole, or of the digests of its parts."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path

_CHUNK = 2**20


def sha256_of(data: bytes | Path, part_bytes: int | None) -> str:
    """The checksum of an object that is sent in parts of so many bytes, or at once with None.

    https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity-upload.html
    """
    if part_bytes is None:
        return _base64(_digest(_pieces(data, _CHUNK)))
    parts = list(_digests(data, part_bytes))
    return f"{_base64(hashlib.sha256(b''.join(parts)).digest())}-{len(parts)}"


def size_of(data: bytes | Path) -> int:
    return len(data) if isinstance(data, bytes) else data.stat().st_size


def _digests(data: bytes | Path, part_bytes: int) -> Iterator[bytes]:
    """Of each part, which is never in memory as a whole."""
    digest, left = hashlib.sha256(), part_bytes
    for piece in _pieces(data, min(_CHUNK, part_bytes)):
        digest.update(piece)
        left -= len(piece)
        if left == 0:
            yield digest.digest()
            digest, left = hashlib.sha256(), part_bytes
    if left < part_bytes:
        yield digest.digest()


def _pieces(data: bytes | Path, size: int) -> Iterator[bytes | memoryview]:
    """Pieces that never lie in two parts: a part is a multiple of a piece."""
    if isinstance(data, bytes):
        view = memoryview(data)
        yield from (view[at : at + size] for at in range(0, len(data), size))
    else:
        with data.open("rb") as file:
            while piece := file.read(size):
                yield piece


def _digest(pieces: Iterator[bytes | memoryview]) -> bytes:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.digest()


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()
