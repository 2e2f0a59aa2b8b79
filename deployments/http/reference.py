"""Reads the value of `input_reference`, which JSON and forms say in the same ways: a picture, or where one is.

As OpenAI's clients send it, it is a file, or an object `{"image_url": ...}` or `{"file_id": ...}`; a text is a URL or
the id of an upload; a list holds what each of them may be. In a form the object is `input_reference[image_url]` and the
list `input_reference[]`.
"""

from __future__ import annotations

import binascii
from dataclasses import dataclass

from deployments.http.create_fields import MAX_FIELDS_BYTES
from deployments.http.images import IMAGE_FIELD
from jobs.ids import is_upload_id
from pipelines.errors import InvalidRequest

PIECE_BYTES = 2**20
"""What is decoded at once; the lock may change hands after each piece. A multiple of 4, as base64 needs."""
MAX_REFERENCES = 1
"""The most pictures that a model of any family takes."""
WAYS = "image_url", "file_id"


@dataclass(frozen=True, slots=True)
class Sent:
    """What was sent as it arrived: the content of a file, or a text that may be as long as a body."""

    data: bytes
    is_file: bool = False


def read_reference(value: object) -> bytes | str | None:
    """The image itself, or the URL or the id of the upload that it is to be had from; None if the list is empty.

    Blocks: a large data URL takes tenths of a second.

    Raises:
        InvalidRequest: it refers to no picture, or to more than a model takes.
    """
    references = value if isinstance(value, list) else [value]
    if not references:
        return None
    if len(references) > MAX_REFERENCES:
        raise _wrong(f"send one picture: the models take {MAX_REFERENCES}, and these are {len(references)}")
    (reference,) = references
    if isinstance(reference, dict):
        return _of_object(reference)
    if isinstance(reference, Sent) and reference.is_file:
        return reference.data
    text = _text(reference)
    if text is None:
        raise _wrong("input_reference must be a URL, the id of an upload, or an object with image_url or file_id")
    short = _short(text)
    if short is not None and is_upload_id(short):
        return short
    return _at_url(text, "input_reference must be a file, a URL, the id of an upload, or a data URL")


def _of_object(reference: dict[str, object]) -> bytes | str:
    given = [name for name, value in reference.items() if value is not None]
    if len(given) != 1 or given[0] not in WAYS:
        raise _wrong("the object input_reference must have exactly one of image_url and file_id, and nothing else")
    (way,) = given
    text = _text(reference[way])
    if text is None:
        raise _wrong(f"{way} must be a text; a file is sent as input_reference itself")
    if way == "image_url":
        return _at_url(text, "image_url must be a URL or a data URL")
    upload_id = _short(text)
    if upload_id is None or not is_upload_id(upload_id):
        raise _wrong("file_id must be the id of an upload, which POST /v1/uploads gives")
    return upload_id


def _text(value: object) -> bytes | None:
    """The bytes of a text; None for what is no text."""
    if isinstance(value, str):
        return value.encode(errors="surrogatepass")
    return value.data if isinstance(value, Sent) and not value.is_file else None


def _short(text: bytes) -> str | None:
    return text.decode(errors="replace") if len(text) <= MAX_FIELDS_BYTES else None


def _at_url(text: bytes, must: str) -> bytes | str:
    """A URL as it is; the image in a data URL."""
    url = _short(text)
    if url is not None and url.lower().startswith(("http://", "https://")):
        return url
    comma = text.find(b",", 0, MAX_FIELDS_BYTES)
    head = text[: max(comma, 0)]
    if not (head.startswith(b"data:") and head.endswith(b";base64")):
        raise _wrong(f"{must}: data:image/png;base64,...")
    try:
        return _decode(memoryview(text)[comma + 1 :])
    except ValueError:
        raise _wrong("the data URL is not valid base64") from None


def _decode(data: memoryview) -> bytes:
    """Decode base64 piece by piece. Raises ValueError."""
    decoded: list[bytes] = []
    for at in range(0, len(data), PIECE_BYTES):
        if at and len(decoded[-1]) < PIECE_BYTES // 4 * 3:
            raise ValueError("there is padding before the end")
        decoded.append(binascii.a2b_base64(data[at : at + PIECE_BYTES], strict_mode=True))
    return b"".join(decoded)


def _wrong(message: str) -> InvalidRequest:
    return InvalidRequest(message, param=IMAGE_FIELD)
