"""HEIC files, which nothing that is installed here writes: a frame of x265's in the boxes that make it a picture."""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from fractions import Fraction
from functools import cache

import av
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
_VPS, _SPS, _PPS = 32, 33, 34
NCLX_BT709 = struct.pack(">4sHHHB", b"nclx", 1, 13, 1, 128)

TURNS = {
    1: b"", 2: b"\0\0\0\x09imir\1", 3: b"\0\0\0\x09irot\2", 4: b"\0\0\0\x09imir\0",
    5: b"\0\0\0\x09irot\3" + b"\0\0\0\x09imir\1", 6: b"\0\0\0\x09irot\3", 7: b"\0\0\0\x09irot\1\0\0\0\x09imir\1",
    8: b"\0\0\0\x09irot\1",
}  # fmt: skip
"""The properties that show a picture as EXIF's orientations do."""


def heic(
    *pictures: Pixels, primary: int = 0, turn: bytes = b"", colr: bytes | Sequence[bytes] = NCLX_BT709,
    exif: bytes = b"", wide: bool = False,
) -> bytes:  # fmt: skip
    """A HEIC of one picture or several, [H, W, 3] with sides that are multiples of 16.

    Args:
        colr: what it says of its colors, or one for each picture; nothing if it is empty.
        exif: goes with the first one.
        wide: write the numbers of pictures and properties in twice the bytes.
    """
    colrs = [colr] * len(pictures) if isinstance(colr, bytes) else colr
    coded = [hevc(pixels.tobytes(), *pixels.shape[:2]) for pixels in pictures]
    items = [body for _, body in coded] + ([struct.pack(">L", 6) + exif] if exif else [])
    properties, associations = b"", b""
    numbers = 0
    for index, (pixels, (config, _), color) in enumerate(zip(pictures, coded, colrs, strict=True)):
        turns = _boxes(turn)
        height, width = pixels.shape[:2]
        own = [config, _box(b"ispe", struct.pack(">4xLL", width, height)), *turns]
        if color:
            own.insert(0, _box(b"colr", color))
        properties += b"".join(own)
        bits = 16 if wide else 8
        marks = [
            (own[at][4:8] in {b"hvcC", b"irot", b"imir", b"colr"}) << bits - 1 | numbers + at + 1
            for at in range(len(own))
        ]
        associations += struct.pack(">LB" if wide else ">HB", index + 1, len(own))
        associations += struct.pack(f">{len(own)}{'H' if wide else 'B'}", *marks)
        numbers += len(own)
    kinds = [b"hvc1"] * len(pictures) + [b"Exif"] * bool(exif)
    infos = b"".join(_box(b"infe", struct.pack(">B3xHH4sx", 2, at + 1, 0, kind)) for at, kind in enumerate(kinds))
    parts = [
        _box(b"hdlr", struct.pack(">4x4x4s13x", b"pict")),
        _box(b"pitm", struct.pack(">B3xL" if wide else ">B3xH", wide, primary + 1)),
        _box(b"iinf", struct.pack(">4xH", len(items)) + infos),
        _box(
            b"iprp",
            _box(b"ipco", properties) + _box(b"ipma", struct.pack(">BxxBL", wide, wide, len(pictures)) + associations),
        ),
    ]
    if exif:
        reference = _box(b"cdsc", struct.pack(">HHH", len(items), 1, 1))
        parts.append(_box(b"iref", bytes(4) + reference))
    begin = _box(b"ftyp", b"heic\0\0\0\0mif1heic")
    places = _box(b"iloc", _places(items, 0))
    at = len(begin) + 12 + sum(map(len, parts)) + len(places) + 8
    meta = _box(b"meta", bytes(4) + b"".join(parts) + _box(b"iloc", _places(items, at)))
    return begin + meta + _box(b"mdat", b"".join(items))


@cache
def hevc(pixels: bytes, height: int, width: int) -> tuple[bytes, bytes]:
    """A picture as the box of its decoder's configuration and one frame, in full range and without subsampling."""
    frame = av.VideoFrame.from_ndarray(np.frombuffer(pixels, np.uint8).reshape(height, width, 3))
    coder = av.CodecContext.create("libx265", "w")
    assert isinstance(coder, av.VideoCodecContext)
    coder.width, coder.height, coder.pix_fmt, coder.time_base = width, height, "yuv444p", Fraction(1)
    coder.options = {"x265-params": "log-level=none:lossless=1:range=full:colormatrix=bt709:pools=none:frame-threads=1"}
    planar = frame.reformat(format="yuv444p", dst_colorspace="ITU709", dst_color_range="JPEG")
    stream = b"".join(bytes(packet) for packet in [*coder.encode(planar), *coder.encode(None)])
    units = [unit for unit in re.split(b"\0*\0\0\1", stream) if unit]
    sets = [[unit for unit in units if unit[0] >> 1 == kind] for kind in (_VPS, _SPS, _PPS)]
    profile = sets[1][0].replace(b"\0\0\3", b"\0\0")[3:15]
    config = b"\1" + profile + b"\xf0\0\xfc\xff\xf8\xf8\0\0\x0f" + bytes([len(sets)])
    for kind, found in zip((_VPS, _SPS, _PPS), sets, strict=True):
        config += struct.pack(">BH", 0x80 | kind, len(found)) + b"".join(map(_measured, found))
    coded = [unit for unit in units if unit[0] >> 1 < 32]
    return _box(b"hvcC", config), b"".join(struct.pack(">L", len(unit)) + unit for unit in coded)


def _measured(unit: bytes) -> bytes:
    return struct.pack(">H", len(unit)) + unit


def _places(items: Sequence[bytes], at: int) -> bytes:
    """The body of iloc: 4 bytes an offset and a length, one extent an item."""
    out = struct.pack(">4xBBH", 0x44, 0, len(items))
    for index, item in enumerate(items):
        out += struct.pack(">HHHLL", index + 1, 0, 1, at, len(item))
        at += len(item)
    return out


def _box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">L", len(body) + 8) + kind + body


def _boxes(data: bytes) -> list[bytes]:
    """Boxes of 9 bytes each."""
    return [data[at : at + 9] for at in range(0, len(data), 9)]
