"""A file that somebody sent as a picture, as an upright sRGB PNG."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.WebPImagePlugin import WebPImageFile

from pipelines.errors import InvalidRequest
from pipelines.pictures.colors import in_srgb
from pipelines.pictures.depth import eight_bits
from pipelines.pictures.isobmff import open_avif, open_heif
from pipelines.pictures.jpeg import open_jpeg
from pipelines.pictures.kinds import Kind, kind_of
from pipelines.pictures.opened import Opened, animated, unreadable
from pipelines.pictures.orientation import orientation_of, turned
from pipelines.pictures.png import open_png
from pipelines.pictures.tiff import open_tiff

PNG_LEVEL = 1
"""A quarter of the time of zlib's usual level, for files of photographs that are no larger."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that was read."""

    png: bytes
    """Upright, RGB, of 8 bits, in sRGB, and nothing else."""
    notes: tuple[str, ...] = ()
    """What was left out of account, for the person who sent it."""


@dataclass(frozen=True, slots=True)
class Limits:
    pixels: int
    aspect_ratio: float
    """Of the longer side by the shorter one."""


def read_picture(data: bytes, limits: Limits) -> Picture:
    """Decode a picture fully. It is read once, and not at all if its size exceeds the limits.

    Raises:
        InvalidRequest: no picture, or of a kind that is not taken; animated, incomplete, too large, too long and thin.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # of odd files, which are taken or refused
            return _read(data, limits)
    except (InvalidRequest, MemoryError):
        raise
    except Exception:
        # Decoders raise whatever comes of a broken file: OSError, SyntaxError, KeyError, struct.error and many more.
        raise unreadable() from None


def _read(data: bytes, limits: Limits) -> Picture:
    kind = kind_of(data)
    if kind == "WEBP":  # Pillow takes the memory of the whole picture when it opens the file
        _check_size(_webp_size(data), limits)
    opened = _OPENERS[kind](data)
    _check_size((opened.width, opened.height), limits)
    image = opened.load()
    image.load()
    shown = eight_bits(image, opened.white, inverted=opened.inverted, unsigned=opened.unsigned)
    colors, note = in_srgb(shown, opened.profile)
    out = io.BytesIO()
    turned(colors, opened.orientation).save(out, "PNG", compress_level=PNG_LEVEL, icc_profile=None)
    return Picture(out.getvalue(), (*opened.notes, *([note] if note else ())))


def _webp_size(data: bytes) -> tuple[int, int]:
    """Width and height in the first chunk's head (RFC 9649). Raises struct.error."""
    match data[12:16]:
        case b"VP8X":
            return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
        case b"VP8L":
            (bits,) = struct.unpack_from("<L", data, 21)
            return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        case _:
            width, height = struct.unpack_from("<HH", data, 26)
            return width & 0x3FFF, height & 0x3FFF


def _check_size(size: tuple[int, int], limits: Limits) -> None:
    if size[0] * size[1] > limits.pixels:
        raise InvalidRequest(f"the image must have at most {limits.pixels} pixels; it is {size[0]}x{size[1]}")
    if max(size) > limits.aspect_ratio * min(size):
        raise InvalidRequest(
            f"the image's longer side must be at most {limits.aspect_ratio:g} times its shorter one; "
            f"it is {size[0]}x{size[1]}"
        )


def _by_pillow(plugin: Callable[[io.BytesIO], ImageFile]) -> Callable[[bytes], Opened]:
    def opener(data: bytes) -> Opened:
        image = plugin(io.BytesIO(data))
        if getattr(image, "is_animated", False):
            raise animated()
        return Opened(
            *image.size,
            load=lambda: image,
            orientation=orientation_of(image.info.get("exif"), image.info.get("xmp")),
            profile=image.info.get("icc_profile"),
        )

    return opener


_OPENERS: dict[Kind, Callable[[bytes], Opened]] = {
    "PNG": open_png,
    "JPEG": open_jpeg,
    "WEBP": _by_pillow(WebPImageFile),
    "GIF": _by_pillow(GifImageFile),
    "BMP": _by_pillow(BmpImageFile),
    "TIFF": open_tiff,
    "AVIF": open_avif,
    "HEIF": open_heif,
}

# Pillow warns of decompression bombs above a size of its own, and refuses them above another; `Limits` says ours.
Image.MAX_IMAGE_PIXELS = None
