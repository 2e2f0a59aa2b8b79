"""The boxes of an mp4 file (ISO/IEC 14496-12), read without any library for video."""

from __future__ import annotations

import struct
from collections.abc import Iterator

# Bytes of their own that these boxes have before the boxes inside them.
_BEFORE = {"stsd": 8, "avc1": 78, "meta": 4}


def boxes(data: bytes) -> Iterator[tuple[str, bytes]]:
    """The name and payload of each box, in order."""
    at = 0
    while at < len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        yield name.decode("latin-1"), data[at + 8 : at + size]
        at += size


def payload(data: bytes, *path: str) -> bytes:
    """The payload of the first box at a path, such as `payload(mp4, "moov", "mvhd")`."""
    for name in path:
        data = next(inside for each, inside in boxes(data) if each == name)
        if name != path[-1]:
            data = data[_BEFORE.get(name, 0) :]
    return data
