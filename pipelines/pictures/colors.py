"""A picture's colors as sRGB's, which is what the models were trained on, with what is transparent laid on black."""

from __future__ import annotations

import io
from functools import cache
from itertools import product

from PIL import Image, ImageChops, ImageCms

UNUSABLE = "the image's color profile cannot be used; its colors are taken as sRGB"

_SEEN_AS = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
"""The mode of a picture's colors, by the space that its profile is of."""
_BLACK_POINT_COMPENSATION = ImageCms.Flags.BLACKPOINTCOMPENSATION
_LEVELS = (0, 16, 40, 64, 96, 128, 160, 192, 224, 255)


def in_srgb(image: Image.Image, profile: bytes | None) -> tuple[Image.Image, str | None]:
    """A picture of 8 bits a channel as RGB, and a note if its profile was left out of account."""
    colors, alpha = _apart(image)
    note = None
    # Lab's numbers mean the same whatever the profile.
    if profile is not None and colors.mode != "LAB":
        try:
            colors = _converted(colors, profile)
        except (OSError, ValueError, TypeError, ImageCms.PyCMSError):
            note = UNUSABLE
    colors = colors.convert("RGB")
    if alpha is None:
        return colors, note
    black = Image.new("RGB", colors.size)
    black.paste(colors, mask=alpha)
    return black, note


def _apart(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """The colors and the alpha channel, if there is one."""
    if image.mode == "La":
        image = image.convert("LA")
    if not image.has_transparency_data:
        return image, None
    if image.mode == "LA":
        gray, alpha = image.split()
        return gray, alpha
    image = image.convert("RGBA")
    return image.convert("RGB"), image.getchannel("A")


def _converted(colors: Image.Image, profile: bytes) -> Image.Image:
    """Convert as browsers do: relative colorimetric, black staying black.

    Raises:
        OSError, ValueError, TypeError, PyCMSError: the profile is broken, or of other colors than the picture.
    """
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    mode = _SEEN_AS.get(source.profile.xcolor_space.strip())
    if mode is None or (mode == "CMYK") != (colors.mode == "CMYK") or (mode == "L" and colors.mode not in {"1", "L"}):
        raise ValueError("the profile is of other colors than the picture")
    if colors.mode != mode:
        colors = colors.convert(mode)
    transform = ImageCms.buildTransform(
        source, _srgb(), mode, "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC, _BLACK_POINT_COMPENSATION
    )
    if mode != "CMYK" and _changes_nothing(transform, mode):
        return colors
    converted = ImageCms.applyTransform(colors, transform, inPlace=mode == "RGB")
    return colors if converted is None else converted


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether colors from everywhere keep their numbers, as nearly as 8 bits can tell: then no pixel need be touched.

    Most pictures have a profile, and most profiles are sRGB's, in one of many wordings.
    """
    before = _samples(mode)
    after = ImageCms.applyTransform(before, transform)
    assert after is not None
    most = ImageChops.difference(before.convert("RGB"), after).getextrema()
    return all(isinstance(band, tuple) and band[1] <= 1 for band in most)


@cache
def _samples(mode: str) -> Image.Image:
    colors = bytes(part for color in product(_LEVELS, repeat=len(mode)) for part in color)
    return Image.frombytes(mode, (len(colors) // len(mode), 1), colors)


@cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
