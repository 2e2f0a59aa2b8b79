"""The body of a create request, JSON or form, as one dict of fields and perhaps an image or a reference to one."""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
import json
import struct
import warnings
from typing import Any

from fastapi import Request
from PIL import Image, ImageOps
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

from deployments.schemas import speakable
from deployments.uploads import is_upload_id
from pipelines.errors import InvalidRequest, PayloadTooLarge

IMAGE_FIELD = "input_reference"
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
# What Pillow's decoders and its EXIF reader raise on broken files.
IMAGE_ERRORS = (OSError, SyntaxError, ValueError, TypeError, KeyError, struct.error, Image.DecompressionBombError)

Image.init()  # `formats` knows a format only once its plugin is loaded
# Pillow warns of decompression bombs from a size of its own; `check_image` has its own limit.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


async def read_body(request: Request, max_bytes: int) -> tuple[dict[str, Any], bytes | str | None]:
    """The fields, and `input_reference` if there is one: its bytes, or the URL or the upload where they are.

    The openai client always sends a form, also without a file, and its `extra_body` as flat form fields.

    Raises:
        InvalidRequest, PayloadTooLarge: the body cannot be read.
    """
    request = Request(request.scope, _bounded(request, max_bytes))
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _read_form(request)
    if kind == "application/json":
        return await asyncio.to_thread(_read_json, await request.body())
    raise InvalidRequest(
        "say in the header content-type what the body is: application/json or multipart/form-data",
        code="unknown_content_type",
    )


async def read_file(request: Request, max_bytes: int) -> bytes:
    """A body that is a file and nothing else. Raises PayloadTooLarge."""
    return await Request(request.scope, _bounded(request, max_bytes)).body()


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
        # MPO is a JPEG with a second picture behind it, as many phones write it.
        if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
            raise InvalidRequest("the image must not be animated; send one frame", param=IMAGE_FIELD)
        upright = ImageOps.exif_transpose(image)
        if upright.has_transparency_data:
            backdrop = Image.new("RGBA", upright.size, "black")
            upright = Image.alpha_composite(backdrop, upright.convert("RGBA"))
        out = io.BytesIO()
        upright.convert("RGB").save(out, "PNG")
    except IMAGE_ERRORS:
        raise InvalidRequest("the image cannot be read; send a complete PNG, JPEG or WebP", param=IMAGE_FIELD) from None
    return out.getvalue()


def _bounded(request: Request, max_bytes: int) -> Receive:
    """The request's body, cut off with an error once it is too large, whether or not it said its length."""
    received = 0

    async def receive() -> Message:
        nonlocal received
        message = await request.receive()
        received += len(message.get("body", b""))
        if max(received, int(request.headers.get("content-length") or 0)) > max_bytes:
            raise PayloadTooLarge(f"the body must be at most {max_bytes} bytes")
        return message

    return receive


async def _read_form(request: Request) -> tuple[dict[str, Any], bytes | str | None]:
    try:
        async with request.form(max_files=1, max_fields=64) as form:
            return await _form_fields(form)
    except HTTPException as error:
        raise InvalidRequest(f"the form cannot be read: {error.detail}", code="invalid_form") from None


async def _form_fields(form: FormData) -> tuple[dict[str, Any], bytes | str | None]:
    fields: dict[str, Any] = {}
    image: bytes | str | None = None
    for name, value in form.multi_items():
        if name in fields or (name == IMAGE_FIELD and image is not None):
            raise InvalidRequest("this field was sent twice", param=speakable(name))
        if isinstance(value, UploadFile):
            if name != IMAGE_FIELD:
                raise InvalidRequest(f"a file belongs into {IMAGE_FIELD}", param=speakable(name))
            image = await value.read()
        elif name == IMAGE_FIELD:
            image = _reference(value)
        else:
            fields[name] = value
    return fields, image


def _read_json(data: bytes) -> tuple[dict[str, Any], bytes | str | None]:
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError):
        raise InvalidRequest("the body is not valid JSON", code="invalid_json") from None
    if not isinstance(fields, dict):
        raise InvalidRequest("the body must be a JSON object", code="invalid_json")
    reference = fields.pop(IMAGE_FIELD, None)
    if reference is None:
        return fields, None
    if not isinstance(reference, str):
        raise InvalidRequest("input_reference must be a URL or the id of an upload in JSON", param=IMAGE_FIELD)
    return fields, _reference(reference)


def _reference(value: str) -> bytes | str:
    if value.lower().startswith(("http://", "https://")) or is_upload_id(value):
        return value
    head, comma, data = value.partition(",")
    if not (head.startswith("data:") and head.endswith(";base64") and comma):
        raise InvalidRequest(
            "input_reference must be a file, a URL, the id of an upload, or a data URL: data:image/png;base64,...",
            param=IMAGE_FIELD,
        )
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest("the data URL is not valid base64", param=IMAGE_FIELD) from None
