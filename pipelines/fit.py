"""How a given picture becomes one of the video's size. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel

if TYPE_CHECKING:
    from PIL.Image import Image

Fit = Literal["cover", "contain", "stretch"]


class PictureFields(BaseModel):
    """The request fields of every family that takes a picture."""

    fit: Fit | None = None
    """How the picture fills the video's size: `cover` crops it around its centre, `contain` shows it whole between
    black bars, and `stretch` distorts it."""


def fitted(image: Image, width: int, height: int, fit: Fit) -> Image:
    """An RGB picture of any size as one of `width` x `height` pixels, resampled by Lanczos' filter.

    "stretch" returns the picture as it is: diffusers' own processors stretch it, so a stage that gives them the result
    equals diffusers on the raw picture. A picture that has the size already is returned with the same pixels.
    """
    # The processes that only check requests need not import Pillow.
    from PIL import Image as pil
    from PIL import ImageOps

    if fit == "stretch":
        return image
    if fit == "cover":
        return ImageOps.fit(image, (width, height), pil.Resampling.LANCZOS)
    # ImageOps.pad rounds the short side of a very flat picture to nothing, and returns a black one.
    scale = min(width / image.width, height / image.height)
    inside = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    canvas = pil.new("RGB", (width, height))
    canvas.paste(image.resize(inside, pil.Resampling.LANCZOS), ((width - inside[0]) // 2, (height - inside[1]) // 2))
    return canvas
