"""Reads a create request's body, JSON or form, into a dict of fields and perhaps an image or a reference to one."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from typing import Any

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

from deployments.http.errors import PayloadTooLarge
from deployments.http.images import IMAGE_FIELD
from deployments.http.schemas import speakable
from jobs.ids import is_upload_id
from pipelines.errors import InvalidRequest


async def read_body(request: Request, max_bytes: int) -> tuple[dict[str, Any], bytes | str | None]:
    """Read the fields, and `input_reference` if there is one: its bytes, or the URL or upload id that refers to them.

    The openai client always sends a form, even without a file, and sends its `extra_body` as flat form fields.

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
    """Read a body that consists of one file. Raises PayloadTooLarge."""
    return await Request(request.scope, _bounded(request, max_bytes)).body()


def _bounded(request: Request, max_bytes: int) -> Receive:
    """The request's body stream, which fails once it is too large, whether or not the request declared its length."""
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
