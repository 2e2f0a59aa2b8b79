"""Checks and normalizes an input image before anything else uses it."""

from __future__ import annotations

import io
import struct
import warnings

from PIL import Image, ImageOps

from pipelines.errors import InvalidRequest

IMAGE_FIELD = "input_reference"
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
# The errors that Pillow's decoders and its EXIF reader raise on broken files.
IMAGE_ERRORS = (OSError, SyntaxError, ValueError, TypeError, KeyError, struct.error, Image.DecompressionBombError)
_PIXELS_AT_ONCE = 2**20

Image.init()  # `formats` accepts a format only once its plugin is loaded
# Pillow warns of decompression bombs above a fixed size; `check_image` has its own limit.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def check_image(data: bytes, max_pixels: int, max_aspect_ratio: float) -> bytes:
    """Decode an image fully and return it as an upright RGB PNG.

    Raises:
        InvalidRequest: not an image, animated, truncated, too many pixels or too long and thin.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=IMAGE_FORMATS)
        if image.width * image.height > max_pixels:
            message = f"the image must have at most {max_pixels} pixels; it is {image.width}x{image.height}"
            raise InvalidRequest(message, param=IMAGE_FIELD)
        if max(image.size) > max_aspect_ratio * min(image.size):
            message = (
                f"the image's longer side must be at most {max_aspect_ratio:g} times its shorter one; "
                f"it is {image.width}x{image.height}"
            )
            raise InvalidRequest(message, param=IMAGE_FIELD)
        # MPO, which many phones write, is a JPEG followed by a second picture: it is not animated.
        if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
            raise InvalidRequest("the image must not be animated; send one frame", param=IMAGE_FIELD)
        upright = ImageOps.exif_transpose(image)
        if upright.has_transparency_data:
            upright = _on_black(upright.convert("RGBA"))
        out = io.BytesIO()
        upright.convert("RGB").save(out, "PNG")
    except IMAGE_ERRORS:
        raise InvalidRequest("the image cannot be read; send a complete PNG, JPEG or WebP", param=IMAGE_FIELD) from None
    return out.getvalue()


def _on_black(image: Image.Image) -> Image.Image:
    """An RGBA image without transparency. It is done by rows: Pillow holds the interpreter's lock meanwhile."""
    rows = max(_PIXELS_AT_ONCE // image.width, 1)
    for top in range(0, image.height, rows):
        part = image.crop((0, top, image.width, min(top + rows, image.height)))
        image.paste(Image.alpha_composite(Image.new("RGBA", part.size, "black"), part), (0, top))
    return image
