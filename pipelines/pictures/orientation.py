"""How a picture has to be turned to be upright, by its EXIF, and turning it."""

from __future__ import annotations

import re
import struct

from PIL.Image import Image, Transpose

from pipelines.pictures.directory import directory, layout

ORIENTATION = 0x0112

_TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
_IN_XMP = re.compile(rb'tiff:Orientation(?:="|>)([1-8])["<]')


def orientation_of(exif: bytes | None, xmp: bytes | None = None) -> int:
    """The orientation, 1 to 8, that EXIF gives, or XMP where EXIF gives none. Of unsound EXIF it is 1: upright."""
    found = _in_exif(exif or b"")
    if found is None and xmp:
        said = _IN_XMP.search(xmp)
        found = int(said[1]) if said else None
    return found if found in _TURNS else 1


def turned(image: Image, orientation: int) -> Image:
    """The picture upright."""
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def _in_exif(exif: bytes) -> int | None:
    while exif.startswith(b"Exif\0\0"):  # some programs write it twice
        exif = exif[6:]
    try:
        found, first = layout(exif)
        return directory(exif, found, first).get(ORIENTATION, 0) or None
    except (ValueError, struct.error):
        return None
