"""Bodies of the largest size, of every kind that takes long: the event loop, which serves all others, goes on."""

from __future__ import annotations

import asyncio
import base64
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import Request
from PIL import Image

from deployments.configuration.api_keys import SCOPES, KeyLimits
from deployments.http.auth import Caller
from deployments.http.body import _read_json, read_body
from deployments.http.create_fields import MAX_FIELDS
from deployments.http.reference import PIECE_BYTES
from deployments.http.submission import CreateRequest
from jobs.record import Job
from pipelines.errors import RequestError
from tests.unit.conftest import Jobs
from tests.unit.door import PICTURE, Door

on_sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)

MIB = 2**20
MOST = 32 * MIB
STALL_S = 0.25
"""The longest that the event loop may stand still. A machine may, for longer; hence one of five tries has to do."""
FORM = "multipart/form-data; boundary=x"


def part(name: bytes, content: bytes) -> bytes:
    return b'--x\r\ncontent-disposition: form-data; name="' + name + b"\r\n\r\n" + content + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--x--\r\n"


IMAGE = bytes(MOST - 2000)
DATA_URL = b"data:image/png;base64," + base64.b64encode(bytes(MOST // 4 * 3 - 3000))

KINDS: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "a long prompt": (
        "application/json", lambda: b'{"prompt": "' + b"a" * (MOST - 100) + b'"}', "all fields but input_reference",
    ),
    "a long prompt in a form": (
        FORM, lambda: form(part(b'prompt"', b"a" * (MOST - 200))), "all fields but input_reference",
    ),
    "lists": ("application/json", lambda: b"[" + b"[]," * (MOST // 3 - 9) + b"1]", "all fields but input_reference"),
    "lists in a field": (
        "application/json", lambda: b'{"prompt": [' + b"[]," * (MOST // 3 - 9) + b"1]}",
        "all fields but input_reference",
    ),
    "nesting": ("application/json", lambda: b'{"a":' + b"[" * (MOST - 9), "all fields but input_reference"),
    "many fields": (
        "application/json", lambda: b'{"a": 1' + b"".join(b', "%x": 1' % n for n in range(20_000)) + b"}",
        f"at most {MAX_FIELDS} fields",
    ),
    "many parts": (FORM, lambda: form(*(part(b'%x"' % n, b"") for n in range(400_000))), f"than {MAX_FIELDS} fields"),
    "what is nearly a boundary": (
        FORM, lambda: form(part(b'input_reference"; filename="a"', b"\r\n--xA" * (MOST // 6 - 99))),
        f"than {MAX_FIELDS} fields",
    ),
    "a data URL": (
        "application/json", lambda: b'{"prompt": "p", "input_reference": "' + DATA_URL + b'"}', "cannot be read",
    ),
    "a data URL in a form": (
        FORM, lambda: form(part(b'prompt"', b"p"), part(b'input_reference"', DATA_URL)), "cannot be read",
    ),
    "a file": (
        FORM, lambda: form(part(b'prompt"', b"p"), part(b'input_reference"; filename="a"', IMAGE)), "cannot be read",
    ),
}  # fmt: skip


async def longest_stall(work: Callable[[], Any]) -> float:
    """The longest time for which the event loop did nothing else while it did some work, in seconds."""
    longest, last = 0.0, time.perf_counter()
    task = asyncio.ensure_future(work())
    while not task.done():
        await asyncio.sleep(0.001)
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    await task
    return longest


def stalls(work: Callable[[], Any], enough: float = STALL_S) -> float:
    """The shortest of the longest stalls of up to five tries."""
    least = float("inf")
    for _ in range(5):
        if (least := min(asyncio.run(longest_stall(work)), least)) < enough:
            break
    return least


def request(kind: str, body: bytes) -> Request:
    """A request whose body comes in pieces, as over a socket."""
    places = iter(range(0, max(len(body), 1), 2**16))

    async def receive() -> dict[str, Any]:
        at = next(places)
        more = at + 2**16 < len(body)
        return {"type": "http.request", "body": body[at : at + 2**16], "more_body": more}

    headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
    return Request({"type": "http", "method": "POST", "path": "/v1/videos", "headers": headers}, receive)


async def accept(door: Door, kind: str, body: bytes) -> Job:
    fields, image = await read_body(request(kind, body), MOST)
    return await door.submission.accept(CreateRequest(fields, image, Caller("k", SCOPES, KeyLimits()), "key"))


@on_sqlite
@pytest.mark.parametrize("kind", KINDS)
def test_a_body_that_is_refused_stops_nobody_else(jobs: Jobs, tmp_path: Path, kind: str) -> None:
    content_type, make, says = KINDS[kind]
    body, door = make(), Door(jobs, tmp_path)
    assert len(body) <= MOST

    async def create() -> None:
        with pytest.raises(RequestError) as refused:
            await accept(door, content_type, body)
        assert says in refused.value.message

    assert stalls(create) < STALL_S


def test_a_large_body_is_worked_through_beside_the_event_loop() -> None:
    kind, make, _ = KINDS["a data URL"]
    body = make()
    began_at = time.perf_counter()
    _read_json(body)
    on_the_loop = time.perf_counter() - began_at

    async def read() -> None:
        await read_body(request(kind, body), MOST)

    assert stalls(read, on_the_loop / 2) < on_the_loop / 2


@on_sqlite
def test_a_large_image_stops_nobody_else(jobs: Jobs, tmp_path: Path) -> None:
    """It is hashed for its idempotency key, decoded and put on black."""
    picture = io.BytesIO()
    Image.new("RGBA", (7000, 7000), (255, 0, 0, 128)).save(picture, "PNG", compress_level=1)
    content = picture.getvalue()
    content += bytes(MOST - 1000 - len(content))  # what follows the end of a PNG is ignored
    body = form(part(b'prompt"', b"p"), part(b'input_reference"; filename="a.png"', content))
    door = Door(jobs, tmp_path)

    async def create() -> None:
        assert (await accept(door, FORM, body)).has_image

    assert stalls(create) < STALL_S


@pytest.mark.parametrize("escape", [False, True])
@pytest.mark.parametrize("pad", range(3))
def test_a_large_data_url_is_the_image_that_it_holds(pad: int, escape: bool) -> None:
    content = b"\xff" * (3 * MIB + pad)
    url = b"data:image/png;base64," + base64.b64encode(content)
    if escape:  # as PHP and Gson write JSON
        url = url.replace(b"/", b"\\/").replace(b"=", b"\\u003d").replace(b"+", b"\\u002B")
    for body in (
        b'{"prompt": "say \\"no\\"", "input_reference": "' + url + b'", "seed": 1}',
        b'{"seed": 1, "input_reference": "' + url + b'", "prompt": "say \\"no\\""}',
        b'{"prompt": "say \\"no\\"", "input_reference": {"image_url": "' + url + b'"}, "seed": 1}',
        b'{"input_reference": [{"image_url": "' + url + b'", "file_id": null}], "seed": 1, "prompt": "say \\"no\\""}',
        b'{"prompt": "say \\"no\\"", "extra_body": {"seed": 1, "input_reference": ["' + url + b'"]}}',
    ):
        fields, image = asyncio.run(read_body(request("application/json", body), MOST))
        assert fields == {"prompt": 'say "no"', "seed": 1}
        assert image == content


@pytest.mark.parametrize(
    "wrong",
    [
        b'{"prompt": "%s"}' % (b"a" * MIB),
        b'{"prompt": "a%s", "input_reference": "data:image/png;base64,AAAA"}' % (b"a" * MIB),
        b'{"user": {"image_url": "%s"}}' % (b"a" * MIB),
        b'{"input_reference": [{"image_url": {"url": "%s"}}]}' % (b"a" * MIB),
        b'{"prompt": "%s", "input_reference": {"image_url": "%s"}}' % (b"a" * MIB, b"a" * MIB),
        b'{"input_reference": {"image_url": "%s"}, "prompt": "%s"}' % (b"a" * MIB, b"a" * MIB),
        b'{"a%s": 1}' % (b"a" * MIB),
        b'"' + b"a" * MIB,
        b"a" * MIB,
    ],
    ids=["prompt", "beside", "within another", "too deep", "both", "behind", "name", "open", "no quote"],
)
def test_only_the_image_may_be_large(wrong: bytes) -> None:
    with pytest.raises(RequestError) as refused:
        asyncio.run(read_body(request("application/json", wrong), MOST))
    assert refused.value.message.startswith("all fields but input_reference must have at most 262144 bytes")


@pytest.mark.parametrize(
    "base64_text",
    [
        b"AA=A" * MIB,
        b"AAA" + b"AAAA" * MIB,
        b"AA\nA" * MIB,
        b"=AAA" + b"A" * MIB,
        b"A" * (PIECE_BYTES - 2) + b"==AAAA",
    ],
    ids=["padding", "length", "line", "begin", "end of a piece"],
)
def test_wrong_base64_is_refused_wherever_it_is_wrong(base64_text: bytes) -> None:
    body = form(part(b'input_reference"', b"data:image/png;base64," + base64_text))
    with pytest.raises(RequestError, match="not valid base64"):
        asyncio.run(read_body(request(FORM, body), MOST))


@pytest.mark.parametrize(
    ("kind", "body", "says"),
    [
        ("multipart/form-data", b"", "no boundary"),
        (FORM, b"", "has no prompt"),
        (FORM, part(b'prompt"', b"p"), "ends before its last part does"),
        (FORM, form(part(b'prompt"', b"p"), part(b'prompt"', b"q")), "sent twice"),
        (FORM, form(part(b'prompt"; filename="a"', b"p")), "a file belongs into input_reference"),
        (FORM, form(b"--x\r\n\r\np\r\n"), "a part has no name"),
        (FORM, form(b"--x\r\n" + b"a: b\r\n" * 99 + b"\r\np\r\n"), "not as its content-type says"),
        (FORM, form(b"--x\r\n" + b"a" * MIB + b"\r\n\r\np\r\n"), "not as its content-type says"),
        (FORM, form(*(part(b'%x"' % n, b"") for n in range(MAX_FIELDS + 2))), f"more than {MAX_FIELDS} fields"),
    ],
)
def test_a_form_that_is_none_is_refused_with_a_sentence(kind: str, body: bytes, says: str) -> None:
    async def read() -> None:
        fields, _ = await read_body(request(kind, body), MOST)
        if "prompt" not in fields:
            raise RequestError("it has no prompt")

    with pytest.raises(RequestError, match=says):
        asyncio.run(read())


def test_a_form_is_read_as_it_was_sent() -> None:
    content = PICTURE.getvalue() + b"\r\n--\r\n-x\r\n"
    body = form(
        part(b"prompt\"", "é".encode()), part(b'user"', b"\xe9"), part(b'seed"', b""),
        part(b'input_reference"; filename="a.png"\r\ncontent-type: image/png', content),
    )  # fmt: skip
    fields, image = asyncio.run(read_body(request(FORM, body), MOST))
    assert (fields, image) == ({"prompt": "é", "user": "é"}, content)
