"""JPEG files, of which a phone may write two in one: the first is the picture."""

from __future__ import annotations

import io

from PIL import ImageChops
from PIL.Image import Image
from PIL.JpegImagePlugin import JpegImageFile

from pipelines.pictures.opened import Opened, incomplete, unreadable
from pipelines.pictures.orientation import orientation_of

_START_OF_SCAN, _END = b"\xff\xda", b"\xff\xd9"
_OTHER_DATA = b"\xaa" * 1024


def open_jpeg(data: bytes) -> Opened:
    """Open a JPEG. `load` raises InvalidRequest if its end is missing."""
    ends = data.rfind(_END) > data.rfind(_START_OF_SCAN)
    # Not Image.open, which would look for the second picture, and fail where its place is not as it should be.
    try:
        image = JpegImageFile(io.BytesIO(data if ends else _ended(data)))
    except (OSError, SyntaxError):
        raise unreadable() if ends else incomplete() from None
    return Opened(
        *image.size,
        load=(lambda: image) if ends else lambda: _perhaps_whole(image, data),
        orientation=orientation_of(image.info.get("exif"), image.info.get("xmp")),
        profile=image.info.get("icc_profile"),
    )


def _perhaps_whole(image: Image, data: bytes) -> Image:
    """The picture of a file whose end marker is missing, if nothing else is.

    libjpeg takes zeros for what is missing, and tells nobody. So it is decoded again with something else in that place:
    a picture that stays the same needs nothing more.
    """
    other = JpegImageFile(io.BytesIO(_ended(data, _OTHER_DATA)))
    try:
        differs = ImageChops.difference(image, other).getbbox(alpha_only=False) is not None
    except OSError:
        differs = True
    if differs:
        raise incomplete()
    return image


def _ended(data: bytes, more: bytes = b"") -> bytes:
    return data.removesuffix(b"\xff") + more + _END
