"""SHA-256 of an object as S3 states it, in base64: of the whole, or of the digests of its parts.

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
    """Of an object that is sent at once; never in memory as a whole."""
    return _base64(_digest(data))


def sha256_of_parts(data: Readable, part_bytes: int) -> str:
    """The same of one that is sent in parts of so many bytes."""
    return _combined(iter(lambda: _digest(data, part_bytes), _digest(io.BytesIO())))


class PartChecksums:
    """The checksums of the parts that a client's transfer manager sends, taken while it sends them.

    boto3 would take them just there, and tell nobody; to take them before would be to read a large file twice.
    """

    def __init__(self, client: Any) -> None:
        self._digests: dict[str, dict[int, bytes]] = {}
        client.meta.events.register("before-parameter-build.s3.UploadPart", self._state)

    @contextmanager
    def collected(self, key: str) -> Iterator[dict[int, bytes]]:
        """What is sent meanwhile under a key. Two at once mix, and then match neither of the two."""
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
    """Of the next so many bytes, or of all that are left."""
    digest, left = hashlib.sha256(), nbytes
    while piece := data.read(_CHUNK if left is None else min(_CHUNK, left)):
        digest.update(piece)
        left = None if left is None else left - len(piece)
    return digest.digest()


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()
