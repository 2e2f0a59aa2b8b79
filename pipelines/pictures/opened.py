"""What each kind of picture file says of itself before it is decoded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from PIL.Image import Image

from pipelines.errors import InvalidRequest

TO_SEND = "send a complete PNG, JPEG, WebP, HEIC or AVIF"


@dataclass(frozen=True, slots=True)
class Opened:
    """A picture file whose head was read. `load` decodes it, which costs time and memory."""

    width: int
    height: int
    """In pixels, as stored: not yet turned."""
    load: Callable[[], Image]
    orientation: int = 1
    """1 to 8, as in EXIF."""
    profile: bytes | None = None
    """An ICC profile; None means sRGB."""
    white: float | None = None
    """The value of white, where a pixel has more than 8 bits and the file says how many; in gray pictures only."""
    inverted: bool = False
    """Whether 0 is white in a gray picture of more than 8 bits."""
    unsigned: bool = False
    """Whether a gray picture's numbers have 32 bits and no sign."""
    notes: tuple[str, ...] = ()
    """What was left out of account, for the person who sent it."""


def unreadable() -> InvalidRequest:
    return InvalidRequest(f"the image cannot be read; {TO_SEND}")


def incomplete() -> InvalidRequest:
    return InvalidRequest("the image cannot be read: its end is missing; send the whole file")


def animated() -> InvalidRequest:
    return InvalidRequest("the image must not be animated or have several pages; send one frame")
