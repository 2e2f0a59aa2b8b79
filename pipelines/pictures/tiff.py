"""TIFF files, which may hold a thumbnail beside the picture, or many pictures."""

from __future__ import annotations

import io
from dataclasses import dataclass

from PIL.TiffImagePlugin import OPEN_INFO, TiffImageFile

from pipelines.pictures.directory import Directory, directory, layout
from pipelines.pictures.opened import Opened, animated
from pipelines.pictures.orientation import ORIENTATION

MAX_PAGES = 64
_KIND, _WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _FORMAT = 254, 256, 257, 258, 262, 339
_REDUCED, _MASK = 1, 4
_WHITE_IS_ZERO, _BLACK_IS_ZERO = 0, 1
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3

# Pillow knows the little-endian ones only. It has no type for them, and takes those from 2**31 for negative numbers.
OPEN_INFO[b"MM", _BLACK_IS_ZERO, (_UNSIGNED,), 1, (32,), ()] = ("I", "I;32BS")


@dataclass(frozen=True, slots=True)
class _Page:
    index: int
    directory: Directory

    @property
    def size(self) -> tuple[int, int]:
        return self.directory.get(_WIDTH, 0), self.directory.get(_HEIGHT, 0)

    @property
    def is_aside(self) -> bool:
        """Whether the file says that this is a smaller version of another page, or its mask."""
        return bool(self.directory.get(_KIND, 0) & (_REDUCED | _MASK))

    def is_thumbnail_of(self, other: _Page) -> bool:
        return all(2 * own <= others for own, others in zip(self.size, other.size, strict=True))


def open_tiff(data: bytes) -> Opened:
    """Open the one full page of a TIFF.

    Raises:
        InvalidRequest: it has several.
        ValueError, struct.error: it is broken.
    """
    page = _full_page(data)
    tags = page.directory.tags
    bits = page.directory.get(_BITS, 1)
    form = page.directory.get(_FORMAT, _UNSIGNED)
    # Pillow would turn the picture itself, and write its whole EXIF anew to do so, which fails for odd tags. It would
    # also take white for black where a pixel has more than 8 bits.
    own = {ORIENTATION: 1}
    inverted = bits > 8 and page.directory.get(_PHOTOMETRIC, _BLACK_IS_ZERO) == _WHITE_IS_ZERO
    if inverted:
        own[_PHOTOMETRIC] = _BLACK_IS_ZERO
    changed = bytearray(data)
    for tag, value in own.items():
        if tag in tags:
            tags[tag].write(changed, value)
    image = TiffImageFile(io.BytesIO(changed))
    image.seek(page.index)
    _take_native_numbers(image)
    known = 8 < bits < 32 and form != _FLOAT
    return Opened(
        *image.size,
        load=lambda: image,
        orientation=page.directory.get(ORIENTATION, 1),
        profile=image.info.get("icc_profile"),
        white=2 ** (bits - (form == _SIGNED)) - 1 if known else None,
        inverted=inverted,
        unsigned=bits == 32 and form == _UNSIGNED,
    )


def _take_native_numbers(image: TiffImageFile) -> None:
    """Have what libtiff decodes read in this machine's byte order: of some types Pillow expects the file's."""
    if image.mode not in {"I", "F"}:
        return
    for index, tile in enumerate(image.tile):
        if tile.codec_name == "libtiff" and isinstance(tile.args, tuple):
            rawmode, *more = tile.args
            image.tile[index] = tile._replace(args=(rawmode.replace("B", "N"), *more))


def _full_page(data: bytes) -> _Page:
    found, at = layout(data)
    pages: list[_Page] = []
    seen: set[int] = set()
    while at and at not in seen:
        if len(pages) == MAX_PAGES:
            raise animated()
        seen.add(at)
        pages.append(_Page(len(pages), directory(data, found, at)))
        at = pages[-1].directory.next
    if not pages:
        raise ValueError("there is no page")
    full = [page for page in pages if not page.is_aside] or pages
    largest = max(full, key=lambda page: page.size[0] * page.size[1])
    if any(page is not largest and not page.is_thumbnail_of(largest) for page in full):
        raise animated()
    return largest
