"""Gray pictures of more than 8 bits as ones of 8: Pillow cuts their values off, it does not scale them."""

from __future__ import annotations

import math

from PIL import Image, ImageMath

HIGHLIGHTS = 16.0
"""Up to this value, what is brighter than 1 in a picture of floats is a highlight, and 1 is white."""
_COMMON = (255.0, 65535.0)
"""The white of pictures whose numbers are kept in a larger type than they need."""


def eight_bits(image: Image.Image, white: float | None, *, inverted: bool, unsigned: bool = False) -> Image.Image:
    """The picture with 8 bits a channel, in a mode of Pillow's that says so; others are returned as they are.

    Without `white`, the numbers say what it is: of floats up to 1 (or a little more, which are highlights) it is 1.
    Else it is that of the smallest common type that holds them all: 255, 65535, or the type's own.

    Args:
        white: the number that is white.
        inverted: 0 is white, and `white` is black.
        unsigned: the numbers have 32 bits and no sign. Pillow takes those from 2**31 for negative ones.
    """
    if image.mode not in {"I", "F"} and not image.mode.startswith("I;"):
        return image
    transparent = image.info.get("transparency")
    values = image if image.mode in {"I", "F"} else image.convert("I")
    lowest, highest = _extremes(values)
    least = 0.0
    if unsigned and (lowest < 0 or highest > _COMMON[-1]):
        white, least = 2.0**32 - 1, 2.0**31
        values = ImageMath.lambda_eval(lambda named: named["values"] ^ -(2**31), values=values)  # each less 2**31
    elif white is None:
        white = _white_of(values.mode, highest)
    scale, offset = (-255 / white, 255.5) if inverted else (255 / white, 0.5)
    offset += least * scale
    gray = values.point(lambda value: value * scale + offset).convert("L")
    if values.mode == "I" and isinstance(transparent, int):
        mask = values.point([0 if value == transparent else 255 for value in range(2**16)], "L")
        return Image.merge("LA", (gray, mask))
    return gray


def _extremes(values: Image.Image) -> tuple[float, float]:
    # Of a picture of one band these are two numbers; Pillow's types also allow for more bands.
    numbers = [number for number in values.getextrema() if isinstance(number, int | float)]
    return min(numbers), max(numbers)


def _white_of(mode: str, highest: float) -> float:
    if mode == "F" and not HIGHLIGHTS < highest < math.inf:
        return 1.0
    return next((white for white in _COMMON if highest <= white), highest if mode == "F" else 2.0**31 - 1)
