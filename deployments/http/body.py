"""Reads a create request's body, JSON or form, into a dict of fields and perhaps an image or a reference to one.

What is large is bounded before anything expensive is done with it, and then done in threads of its own, piece by piece:
one long call of a C function holds the interpreter's lock, and with it the event loop, as if it ran there.
"""

from __future__ import annotations

import asyncio
import binascii
import json
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from fastapi import Request
from starlette.types import Message, Receive

from deployments.http.errors import PayloadTooLarge
from deployments.http.form import read_form, text_of
from deployments.http.images import IMAGE_FIELD
from deployments.http.schemas import MAX_FIELDS, MAX_FIELDS_BYTES, speakable
from jobs.ids import is_upload_id
from pipelines.errors import InvalidRequest

T = TypeVar("T")

SMALL_BYTES = 16 * 2**10
"""A body of this size is read in a millisecond, on the event loop: to wait for a thread would take longer."""
PIECE_BYTES = 2**20
"""What is decoded at once; the lock may change hands after each piece. A multiple of 4, as base64 needs."""
# Not the default threads, which read the job store: large bodies take tenths of a second each.
_THREADS = ThreadPoolExecutor(2, thread_name_prefix="body")


async def read_body(request: Request, max_bytes: int) -> tuple[dict[str, Any], bytes | str | None]:
    """Read the fields, and `input_reference` if there is one: its bytes, or the URL or upload id that refers to them.

    The openai client always sends a form, even without a file, and sends its `extra_body` as flat form fields.

    Raises:
        InvalidRequest, PayloadTooLarge: the body cannot be read.
    """
    content_type = request.headers.get("content-type", "")
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _read(request, max_bytes, partial(_read_form, content_type))
    if kind == "application/json":
        return await _read(request, max_bytes, _read_json)
    raise InvalidRequest(
        "say in the header content-type what the body is: application/json or multipart/form-data",
        code="unknown_content_type",
    )


async def read_file(request: Request, max_bytes: int) -> bytes:
    """Read a body that consists of one file. Raises PayloadTooLarge."""
    return await _read(request, max_bytes, lambda data: data)


async def _read(request: Request, max_bytes: int, parse: Callable[[bytes], T]) -> T:
    chunks = [chunk async for chunk in Request(request.scope, _bounded(request, max_bytes)).stream()]
    if sum(map(len, chunks)) <= SMALL_BYTES:
        return parse(b"".join(chunks))
    return await asyncio.get_running_loop().run_in_executor(_THREADS, lambda: parse(b"".join(chunks)))


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


def _read_form(content_type: str, data: bytes) -> tuple[dict[str, Any], bytes | str | None]:
    fields: dict[str, Any] = {}
    image: bytes | str | None = None
    left = MAX_FIELDS_BYTES
    for part in read_form(content_type, data):
        if part.name in fields or (part.name == IMAGE_FIELD and image is not None):
            raise InvalidRequest("this field was sent twice", param=speakable(part.name))
        if part.name == IMAGE_FIELD:
            image = part.data if part.is_file else _reference(part.data)
        elif part.is_file:
            raise InvalidRequest(f"a file belongs into {IMAGE_FIELD}", param=speakable(part.name))
        else:
            left -= len(part.data)
            if left < 0:
                raise _too_much()
            fields[part.name] = text_of(part.data)
    return fields, image


def _read_json(data: bytes) -> tuple[dict[str, Any], bytes | str | None]:
    # Another value at each request, so that no other field can pass for it.
    mark = secrets.token_hex().encode()
    data, reference = _take_out(data, mark) if len(data) > MAX_FIELDS_BYTES else (data, None)
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError):
        raise InvalidRequest("the body is not valid JSON", code="invalid_json") from None
    if not isinstance(fields, dict):
        raise InvalidRequest("the body must be a JSON object", code="invalid_json")
    if len(fields) > MAX_FIELDS:
        raise InvalidRequest(f"there must be at most {MAX_FIELDS} fields; there are {len(fields)}")
    said = fields.pop(IMAGE_FIELD, None)
    if reference is not None:
        if said != mark.decode():
            raise _too_much()
        return fields, _reference(reference)
    if said is None:
        return fields, None
    if not isinstance(said, str):
        raise InvalidRequest("input_reference must be a URL or the id of an upload in JSON", param=IMAGE_FIELD)
    return fields, _reference(said.encode(errors="surrogatepass"))


def _take_out(data: bytes, mark: bytes) -> tuple[bytes, bytes]:
    """Put `mark` in the place of the one long string, which must be a data URL, so that the rest is short.

    The rest is parsed as JSON and tells whether the mark is the value of `input_reference`. A data URL holds no quotes,
    so the last quote before it begins it, and the next one ends it.
    """
    begin = data.rfind(b'"', 0, MAX_FIELDS_BYTES) + 1
    end = data.find(b'"', begin)
    if begin == 0 or end < 0 or len(data) - (end - begin) > MAX_FIELDS_BYTES:
        raise _too_much()
    return data[:begin] + mark + data[end:], data[begin:end].replace(b"\\/", b"/")


def _too_much() -> PayloadTooLarge:
    return PayloadTooLarge(
        f"all fields but {IMAGE_FIELD} must have at most {MAX_FIELDS_BYTES} bytes together; send a shorter prompt"
    )


def _reference(value: bytes) -> bytes | str:
    """A URL or an upload's id as it is; the image in a data URL."""
    if len(value) <= MAX_FIELDS_BYTES:
        text = value.decode(errors="replace")
        if text.lower().startswith(("http://", "https://")) or is_upload_id(text):
            return text
    comma = value.find(b",", 0, MAX_FIELDS_BYTES)
    head = value[: max(comma, 0)]
    if not (head.startswith(b"data:") and head.endswith(b";base64")):
        raise InvalidRequest(
            "input_reference must be a file, a URL, the id of an upload, or a data URL: data:image/png;base64,...",
            param=IMAGE_FIELD,
        )
    try:
        return _decode(memoryview(value)[comma + 1 :])
    except ValueError:
        raise InvalidRequest("the data URL is not valid base64", param=IMAGE_FIELD) from None


def _decode(data: memoryview) -> bytes:
    """Decode base64 piece by piece. Raises ValueError."""
    decoded: list[bytes] = []
    for at in range(0, len(data), PIECE_BYTES):
        if at and len(decoded[-1]) < PIECE_BYTES // 4 * 3:
            raise ValueError("there is padding before the end")
        decoded.append(binascii.a2b_base64(data[at : at + PIECE_BYTES], strict_mode=True))
    return b"".join(decoded)
