"""PNG files, without the chunks that only describe them: those are many, large and often broken.

A sound picture is not refused for a comment. What says how to show the picture is read here, within bounds.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

from PIL.PngImagePlugin import PngImageFile

from pipelines.pictures.matrix_profile import profile_of_code, profile_of_gamma
from pipelines.pictures.opened import Opened, animated, incomplete, unreadable
from pipelines.pictures.orientation import orientation_of

MAX_CHUNKS = 100_000
MAX_PROFILE_BYTES = 4 * 2**20

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_KEPT = {b"IHDR", b"PLTE", b"tRNS", b"IDAT"}
_READ = {b"eXIf", b"iCCP", b"sRGB", b"gAMA", b"cHRM", b"cICP", b"fcTL"}
_BROKEN_PROFILE = "the image's color profile cannot be read; its colors are taken as sRGB"


def open_png(data: bytes) -> Opened:
    """Open a PNG. Raises InvalidRequest if it is animated, or what its pixels need is broken."""
    kept: list[bytes | memoryview] = [_SIGNATURE]
    said: dict[bytes, bytes] = {}
    for kind, chunk in _chunks(memoryview(data)):
        if kind == b"fcTL" and b"IDAT" in said:  # a frame behind the picture
            raise animated()
        if kind in _KEPT:
            kept.append(chunk)
        said.setdefault(kind, b"" if kind == b"IDAT" else bytes(chunk[8:-4]))
    if b"IHDR" not in said or b"IDAT" not in said:
        raise incomplete() if b"IHDR" in said else unreadable()
    kept.append(_chunk(b"IEND", b""))
    image = PngImageFile(io.BytesIO(b"".join(kept)))
    depth = said[b"IHDR"][8]
    transparent = image.info.get("transparency")
    if depth < 8 and image.mode in {"1", "L"} and isinstance(transparent, int):
        # Pillow scales the pixels to 8 bits, but not the one that is transparent.
        image.info["transparency"] = transparent * 255 // (2**depth - 1)
    elif depth == 16 and image.mode == "RGB" and isinstance(transparent, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in transparent)
    profile, notes = _colors(said)
    return Opened(
        *image.size,
        load=lambda: image,
        orientation=orientation_of(said.get(b"eXIf")),
        profile=profile,
        white=2**depth - 1 if depth > 8 else None,
        notes=notes,
    )


def _chunks(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """The chunks before the end of the picture, whole and sound; those that nobody needs are left out.

    Raises:
        InvalidRequest: a chunk that the pixels need is cut or broken.
    """
    at = len(_SIGNATURE)
    for _ in range(MAX_CHUNKS):
        if at + 8 > len(data):
            return
        length, kind = struct.unpack_from(">L4s", data, at)
        chunk = data[at : at + 12 + length]
        at += 12 + length
        if kind == b"IEND":
            return
        critical = not kind[0] & 0x20
        whole = len(chunk) == 12 + length
        if critical and kind not in _KEPT:
            raise unreadable()  # its pixels are not what they are in others, as in what Xcode makes of a PNG
        if critical and not whole:
            raise incomplete()
        if not critical and (kind not in _KEPT | _READ or not whole or length > MAX_PROFILE_BYTES):
            continue
        if zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big"):
            yield kind, chunk
        elif critical:
            raise unreadable()
    raise unreadable()


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">L", len(body)) + kind + body + struct.pack(">L", zlib.crc32(kind + body))


def _colors(said: dict[bytes, bytes]) -> tuple[bytes | None, tuple[str, ...]]:
    """The profile of a picture's colors, and notes. Of several ways to say it, the best one counts, as in browsers."""
    try:
        if b"cICP" in said:
            primaries, transfer = said[b"cICP"][:2]
            return profile_of_code(primaries, transfer)
        if b"iCCP" in said:
            return _inflated(said[b"iCCP"]), ()
        if b"sRGB" not in said and b"gAMA" in said:
            corners = struct.unpack(">8L", said[b"cHRM"]) if b"cHRM" in said else None
            return profile_of_gamma(int.from_bytes(said[b"gAMA"], "big"), corners), ()
    except (ValueError, ZeroDivisionError, zlib.error, struct.error):
        return None, (_BROKEN_PROFILE,)
    return None, ()


def _inflated(body: bytes) -> bytes:
    """The profile in an iCCP chunk: name, zero, method, and what is compressed. Raises ValueError, zlib.error."""
    _, found, packed = body.partition(b"\0")
    if not found:
        raise ValueError("it has no name")
    # What is cut off behind a profile is padding: a profile says its own size.
    return zlib.decompressobj().decompress(packed[1:], MAX_PROFILE_BYTES)
