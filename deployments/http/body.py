"""Reads a create request's body, JSON or form, into a dict of fields and perhaps an image or a reference to one.

What is large is bounded before anything expensive is done with it, and then done in threads of its own, piece by piece:
one long call of a C function holds the interpreter's lock, and with it the event loop, as if it ran there.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from fastapi import Request
from starlette.types import Message, Receive

from deployments.http.arriving import in_time
from deployments.http.create_fields import MAX_FIELDS, MAX_FIELDS_BYTES, speakable
from deployments.http.errors import PayloadTooLarge
from deployments.http.extra import spread
from deployments.http.form import read_form, text_of
from deployments.http.images import IMAGE_FIELD
from deployments.http.in_hand import in_threads, reserve
from deployments.http.nesting import path_of, put
from deployments.http.reference import Sent, read_reference
from deployments.http.sizes import declared_bytes
from pipelines.errors import InvalidRequest

T = TypeVar("T")
Body = tuple[dict[str, Any], bytes | str | None]
"""The fields of a request but for `input_reference`, and what that is: an image, or where one is."""

SMALL_BYTES = 16 * 2**10
"""A body of this size is read in a millisecond, on the event loop: to wait for a thread would take longer."""
MOST_TAKEN = 16
"""The most long strings that a body may have: far more pictures than any model takes."""
ESCAPES = [(b"\\/", b"/")]
ESCAPES += [(f"\\u{ord(each):04{form}}".encode(), each.encode()) for each in "=+/" for form in "xX"]
MAY_BE_EMPTY = frozenset({"negative_prompt"})
"""The fields for which an empty value in a form says something: not to use the model's own."""
# Not the default threads, which read the job store: large bodies take tenths of a second each.
_THREADS = ThreadPoolExecutor(2, thread_name_prefix="body")


async def read_body(request: Request, max_bytes: int) -> Body:
    """Read the fields, and `input_reference` if there is one: its bytes, or the URL or upload id that refers to them.

    The openai client always sends a form, even without a file, and sends its `extra_body` as flat form fields.

    Raises:
        InvalidRequest, PayloadTooLarge, TooSlow: the body cannot be read.
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
    """Read a body that consists of one file. Raises PayloadTooLarge, TooSlow."""
    return await _read(request, max_bytes, lambda data: data)


async def _read(request: Request, max_bytes: int, parse: Callable[[bytes], T]) -> T:
    chunks = [chunk async for chunk in Request(request.scope, _bounded(request, max_bytes)).stream()]
    if sum(map(len, chunks)) <= SMALL_BYTES:
        return parse(b"".join(chunks))
    return await in_threads(_THREADS, lambda: parse(b"".join(chunks)))


def _bounded(request: Request, max_bytes: int) -> Receive:
    """The request's body stream, which fails once it is too large or too slow, whatever length the request declared."""
    received, next_message = 0, in_time(request.receive)
    declared = declared_bytes(request.headers) or 0

    async def receive() -> Message:
        nonlocal received
        message = await next_message()
        arrived = len(message.get("body", b""))
        received += arrived
        reserve(arrived)
        if max(received, declared) > max_bytes:
            raise PayloadTooLarge(f"the body must be at most {max_bytes} bytes")
        return message

    return receive


def _read_form(content_type: str, data: bytes) -> Body:
    fields: dict[str, Any] = {}
    left = MAX_FIELDS_BYTES
    for part in read_form(content_type, data):
        path = path_of(part.name)
        if path[0] == IMAGE_FIELD:
            if part.is_file or part.data:
                # A form may have several files of one name: they are a list.
                put(fields, [IMAGE_FIELD, "", *path[1:]] if path[1:2] != [""] else path, Sent(part.data, part.is_file))
            continue
        if part.is_file:
            raise InvalidRequest(f"a file belongs into {IMAGE_FIELD}", param=speakable(path[0]))
        left -= len(part.data)
        if left < 0:
            raise _too_much()
        # Pages send every field that they show; an empty one was left out.
        if part.data or path[0] in MAY_BE_EMPTY:
            put(fields, path, text_of(part.data))
    return _body(fields, {})


def _read_json(data: bytes) -> Body:
    data, taken = _take_out(data) if len(data) > MAX_FIELDS_BYTES else (data, {})
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError):
        raise InvalidRequest("the body is not valid JSON", code="invalid_json") from None
    if not isinstance(fields, dict):
        raise InvalidRequest("the body must be a JSON object", code="invalid_json")
    return _body(fields, taken)


def _body(fields: dict[str, Any], taken: dict[str, bytes]) -> Body:
    given = {name: value for name, value in spread(fields).items() if value is not None}
    if len(given) > MAX_FIELDS:
        raise InvalidRequest(f"there must be at most {MAX_FIELDS} fields; there are {len(given)}")
    reference = _put_back(given.pop(IMAGE_FIELD, None), taken)
    if taken:
        raise _too_much()
    return given, None if reference is None else read_reference(reference)


def _take_out(data: bytes) -> tuple[bytes, dict[str, bytes]]:
    """Put marks in the place of the long strings, which must be data URLs, so that the rest is short.

    The rest is parsed as JSON and tells whether the marks are values of `input_reference`. A data URL holds no quotes,
    so the last quote before it begins it, and the next one ends it. Returns the rest, and the strings by their marks.
    """
    # Other values at each request, so that no other field can pass for one.
    secret = secrets.token_hex()
    taken: dict[str, bytes] = {}
    rest: list[bytes] = []
    at, left = 0, MAX_FIELDS_BYTES
    while len(data) - at > left:
        begin = data.rfind(b'"', at + 1, at + left) + 1
        end = data.find(b'"', begin)
        if begin == 0 or end < 0 or len(taken) == MOST_TAKEN:
            raise _too_much()
        mark = f"{secret}{len(taken)}"
        taken[mark] = _unescaped(data[begin:end])
        rest += [data[at:begin], mark.encode()]
        left -= begin - at
        at = end
    return b"".join([*rest, data[at:]]), taken


def _unescaped(url: bytes) -> bytes:
    """A data URL without JSON's escapes, which some writers use in base64 too: Gson ends it with `\\u003d`."""
    if b"\\" in url:
        for escape, character in ESCAPES:
            url = url.replace(escape, character)
    return url


def _put_back(value: object, taken: dict[str, bytes], depth: int = 2) -> object:
    """A reference with the strings that were taken out of it. They are removed from `taken`."""
    if isinstance(value, str) and value in taken:
        return Sent(taken.pop(value))
    if isinstance(value, list) and depth:
        return [_put_back(each, taken, depth - 1) for each in value]
    if isinstance(value, dict) and depth:
        return {name: _put_back(each, taken, depth - 1) for name, each in value.items()}
    return value


def _too_much() -> PayloadTooLarge:
    return PayloadTooLarge(
        f"all fields but {IMAGE_FIELD} must have at most {MAX_FIELDS_BYTES} bytes together; send a shorter prompt"
    )
