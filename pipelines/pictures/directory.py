"""The directories of a TIFF file, which EXIF consists of too.

Only whole numbers are read, and only in their place: what else a tag may hold, of which type, and whether it is sound,
matters to nobody here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

_WHOLE = {1: "B", 3: "H", 4: "L", 6: "b", 8: "h", 9: "l", 16: "Q"}
"""Tag types of whole numbers, as `struct` writes them."""
_RATIONAL = {5: "LL", 10: "ll"}
MAX_ENTRIES = 4096


@dataclass(frozen=True, slots=True)
class Tag:
    """The first number of one tag."""

    value: int
    at: int
    """Where in the file the number is."""
    form: str
    """How `struct` reads it: two numbers of a fraction."""

    def write(self, data: bytearray, value: int) -> None:
        """Put another number in its place."""
        struct.pack_into(self.form, data, self.at, *((value, 1) if self.form[1:] in _RATIONAL.values() else (value,)))


@dataclass(frozen=True, slots=True)
class Directory:
    tags: dict[int, Tag]
    next: int
    """Where the next directory is; 0 for none."""

    def get(self, tag: int, otherwise: int) -> int:
        return self.tags[tag].value if tag in self.tags else otherwise


@dataclass(frozen=True, slots=True)
class Layout:
    """How a file writes its numbers."""

    order: str
    big: bool

    @property
    def offset(self) -> str:
        return "Q" if self.big else "L"


def layout(data: bytes | memoryview) -> tuple[Layout, int]:
    """A file's layout, and where its first directory is. Raises ValueError, struct.error."""
    order = {b"II": "<", b"MM": ">"}.get(bytes(data[:2]))
    if order is None:
        raise ValueError("neither byte order")
    (version,) = struct.unpack_from(order + "H", data, 2)
    # Cameras write other versions too; all but BigTIFF's 43 have the same layout.
    found = Layout(order, version == 43)
    (first,) = struct.unpack_from(order + found.offset, data, 8 if found.big else 4)
    return found, first


def directory(data: bytes | memoryview, layout: Layout, at: int) -> Directory:
    """Read one directory, as far as it is there. Raises struct.error if not even its length is."""
    order, entry = layout.order, 20 if layout.big else 12
    count_form = "Q" if layout.big else "H"
    (count,) = struct.unpack_from(order + count_form, data, at)
    at += struct.calcsize(order + count_form)
    tags: dict[int, Tag] = {}
    for index in range(min(count, MAX_ENTRIES)):
        try:
            tag, found = _entry(data, layout, at + index * entry)
        except struct.error:
            return Directory(tags, 0)
        if found is not None:
            tags.setdefault(tag, found)
    try:
        (following,) = struct.unpack_from(order + layout.offset, data, at + count * entry)
    except struct.error:
        following = 0
    return Directory(tags, following)


def _entry(data: bytes | memoryview, layout: Layout, at: int) -> tuple[int, Tag | None]:
    order = layout.order
    tag, kind, count = struct.unpack_from(f"{order}HH{layout.offset}", data, at)
    form = _WHOLE.get(kind) or _RATIONAL.get(kind)
    if form is None or count < 1:
        return tag, None
    at += 12 if layout.big else 8
    if struct.calcsize(order + form) * count > struct.calcsize(order + layout.offset):
        (at,) = struct.unpack_from(order + layout.offset, data, at)
    try:
        numbers = struct.unpack_from(order + form, data, at)
    except struct.error:
        return tag, None
    if len(numbers) == 1:
        return tag, Tag(numbers[0], at, order + form)
    above, below = numbers
    whole = below != 0 and above % below == 0
    return tag, Tag(above // below, at, order + form) if whole else None
