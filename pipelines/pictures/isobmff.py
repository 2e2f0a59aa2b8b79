"""The two kinds of pictures in ISO's base media format: AVIF, which Pillow decodes, and HEIC, which libheif does.

Their files turn the picture by properties of their own, which both decoders know; EXIF's orientation says it again and
must not turn it twice.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import replace

from PIL import Image, _avif

from pipelines.pictures.matrix_profile import profile_of_code
from pipelines.pictures.opened import Opened, animated

DECODER_THREADS = 2
_BOXES_AT_MOST = 10_000
_ITEMS_AT_MOST = 100_000


def open_avif(data: bytes) -> Opened:
    """Open an AVIF. Raises InvalidRequest if it is animated."""
    # Not Image.open, which writes EXIF anew to put the orientation there, and fails where a tag of it is odd.
    decoder = _avif.AvifDecoder(data, "auto", DECODER_THREADS)
    (width, height), frames, mode, profile, _, orientation, _ = decoder.get_info()
    if frames > 1:
        raise animated()

    def load() -> Image.Image:
        return Image.frombytes(mode, (width, height), decoder.get_frame(0)[0])

    return _with_colors(Opened(width, height, load, orientation=orientation, profile=profile or None), data)


def open_heif(data: bytes) -> Opened:
    """Open the primary picture of a HEIC: a burst holds others, and a live photo a video."""
    import pi_heif  # of all kinds the one that needs more than Pillow

    file = pi_heif.HeifFile(io.BytesIO(data), convert_hdr_to_8bit=True, hdr_to_16bit=True, remove_stride=False)
    image = file[file.primary_index]
    width, height = image.size
    profile = image.info.get("icc_profile")
    return _with_colors(Opened(width, height, image.to_pillow, profile=profile), data)


def _with_colors(opened: Opened, data: bytes) -> Opened:
    """What was opened, with a profile of the colors that the file gives by numbers, if it has no other."""
    if opened.profile is not None:
        return opened
    codes = _codes(memoryview(data))
    profile, notes = (None, ()) if codes is None else profile_of_code(*codes)
    return replace(opened, profile=profile, notes=notes)


def _codes(data: memoryview) -> tuple[int, int] | None:
    """H.273's codes of the primaries and the curve, of the primary picture.

    Where it says nothing of its colors, they are the first ones in the file: those of the tiles that it consists of.
    """
    try:
        meta = _inside(data, b"meta")[4:]
        properties = list(_boxes(_inside(_inside(meta, b"iprp"), b"ipco")))
        colors = {at: body for at, (name, body) in enumerate(properties) if name == b"colr"}
        own = colors.keys() & _places_of_primary(meta)
        for body in (colors[at] for at in sorted(own or colors)):
            if bytes(body[:4]) == b"nclx":
                primaries, transfer = struct.unpack_from(">HH", body, 4)
                return primaries, transfer
    except struct.error:
        pass  # the decoder has its own opinion of the file
    return None


def _places_of_primary(meta: memoryview) -> set[int]:
    """Which of the properties are the primary picture's, from 0. Raises struct.error."""
    said = _inside(meta, b"pitm")
    (primary,) = struct.unpack_from(">L" if bytes(said[:1]) > b"\0" else ">H", said, 4)
    places: set[int] = set()
    for name, body in _boxes(_inside(meta, b"iprp")):
        if name != b"ipma":
            continue
        version, is_wide, count = struct.unpack_from(">BxxBL", body)
        head, place = (">LB" if version else ">HB"), (">H" if is_wide & 1 else ">B")
        at = 8
        for _ in range(min(count, _ITEMS_AT_MOST)):
            item, length = struct.unpack_from(head, body, at)
            at += struct.calcsize(head)
            end = at + length * struct.calcsize(place)
            if item == primary:
                # The first bit says whether a reader must know the property; they are counted from 1, and 0 is none.
                bits = 0x7FFF if is_wide & 1 else 0x7F
                places |= {(number & bits) - 1 for (number,) in struct.iter_unpack(place, body[at:end])} - {-1}
            at = end
    return places


def _inside(data: memoryview, kind: bytes) -> memoryview:
    return next((body for name, body in _boxes(data) if name == kind), data[:0])


def _boxes(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    at = 0
    for _ in range(_BOXES_AT_MOST):
        if at + 8 > len(data):
            return
        length, kind = struct.unpack_from(">L4s", data, at)
        head = 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, at + 8)
            head = 16
        end = at + length if length else len(data)
        if end < at + head:
            return
        yield kind, data[at + head : end]
        at = end
