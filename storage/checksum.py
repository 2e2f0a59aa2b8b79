"""SHA-256 of an object as S3 states it, in base64: of the whole object, or of the digests of its parts.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity-upload.html
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

_CHUNK = 2**20


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def opened(data: bytes | Path) -> BinaryIO:
    return io.BytesIO(data) if isinstance(data, bytes) else data.open("rb")


def size_of(data: bytes | Path) -> int:
    return len(data) if isinstance(data, bytes) else data.stat().st_size


def sha256_of(data: Readable) -> str:
    """The checksum of an object that is sent in one request. This never holds the whole object in memory."""
    return _base64(_digest(data))


def sha256_of_parts(data: Readable, part_bytes: int) -> str:
    """The checksum of an object that is sent in parts of `part_bytes` bytes."""
    return _combined(iter(lambda: _digest(data, part_bytes), _digest(io.BytesIO())))


class PartChecksums:
    """The checksums of the parts that a client's transfer manager sends, computed while it sends them.

    boto3 would compute them at the same point but not expose them; computing them beforehand would read a large file
    twice.
    """

    def __init__(self, client: Any) -> None:
        self._digests: dict[str, dict[int, bytes]] = {}
        client.meta.events.register("before-parameter-build.s3.UploadPart", self._state)

    @contextmanager
    def collected(self, key: str) -> Iterator[dict[int, bytes]]:
        """Collect the digests of the parts sent under a key. Two concurrent uploads mix, and then match neither."""
        digests = self._digests[key] = {}
        try:
            yield digests
        finally:
            self._digests.pop(key, None)

    @staticmethod
    def combined(digests: dict[int, bytes]) -> str:
        """The checksum of the object that consists of these parts."""
        return _combined(digests[number] for number in sorted(digests))

    def _state(self, params: dict[str, Any], **_: Any) -> None:
        digests = self._digests.get(params["Key"])
        if digests is not None:
            body = params["Body"]
            start = body.tell()
            digest = digests[params["PartNumber"]] = _digest(body)
            body.seek(start)
            params["ChecksumSHA256"] = _base64(digest)


def _combined(digests: Iterable[bytes]) -> str:
    parts = list(digests)
    return f"{_base64(hashlib.sha256(b''.join(parts)).digest())}-{len(parts)}"


def _digest(data: Readable, nbytes: int | None = None) -> bytes:
    """The SHA-256 digest of the next `nbytes` bytes, or of all remaining ones."""
    digest, left = hashlib.sha256(), nbytes
    while piece := data.read(_CHUNK if left is None else min(_CHUNK, left)):
        digest.update(piece)
        left = None if left is None else left - len(piece)
    return digest.digest()


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()
