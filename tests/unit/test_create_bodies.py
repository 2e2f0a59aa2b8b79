"""A create request as clients really write it: what JSON and forms may say, and that both mean the same."""

from __future__ import annotations

import asyncio
import base64
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import Request

from deployments.http.body import read_body
from deployments.http.create_fields import parse_create
from deployments.http.extra import spread
from deployments.http.form import read_form
from jobs.ids import new_upload_id
from pipelines.errors import InvalidRequest
from storage.keys import input_key
from tests.unit.api_world import run_api
from tests.unit.door import PICTURE

MIB = 2**20
PNG = PICTURE.getvalue()
DATA_URL = "data:image/png;base64," + base64.b64encode(PNG).decode()
UPLOAD = new_upload_id()
WAYS = "exactly one of image_url and file_id"

Part = tuple[str, str] | tuple[str, bytes, str]
"""A part of a form: its name and its text, or its name, its content and what else its head says."""


def encoded(*parts: Part) -> bytes:
    """A form. The heads are written out, since they are what clients differ in."""
    body = b""
    for name, value, *more in parts:
        head = f'--x\r\ncontent-disposition: form-data; name="{name}"{more[0] if more else ""}\r\n\r\n'
        body += head.encode() + (value.encode() if isinstance(value, str) else value) + b"\r\n"
    return body + b"--x--\r\n"


def read(kind: str, body: bytes) -> tuple[dict[str, Any], bytes | str | None]:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    headers = [(b"content-type", kind.encode())]
    return asyncio.run(read_body(Request({"type": "http", "method": "POST", "headers": headers}, receive), 32 * MIB))


def of_form(*parts: Part) -> tuple[dict[str, Any], bytes | str | None]:
    return read("multipart/form-data; boundary=x", encoded(*parts))


def of_json(**fields: Any) -> tuple[dict[str, Any], bytes | str | None]:
    return read("application/json", json.dumps(fields).encode())


NAMED = '; filename="a.png"\r\ncontent-type: image/png'

REFERENCES: dict[str, tuple[Any, Sequence[Part], bytes | str | None]] = {
    "data URL": (DATA_URL, [("input_reference", DATA_URL)], PNG),
    "URL": ("https://example.org/a.png", [("input_reference", "https://example.org/a.png")], "https://example.org/a.png"),
    "upload": (UPLOAD, [("input_reference", UPLOAD)], UPLOAD),
    "image_url": ({"image_url": DATA_URL}, [("input_reference[image_url]", DATA_URL)], PNG),
    "image_url of a URL": (
        {"image_url": "https://example.org/a.png"}, [("input_reference[image_url]", "https://example.org/a.png")],
        "https://example.org/a.png",
    ),
    "file_id": ({"file_id": UPLOAD}, [("input_reference[file_id]", UPLOAD)], UPLOAD),
    "a null beside it": (
        {"file_id": UPLOAD, "image_url": None},
        [("input_reference[file_id]", UPLOAD), ("input_reference[image_url]", "")], UPLOAD,
    ),
    "list": ([DATA_URL], [("input_reference[]", DATA_URL)], PNG),
    "list of an object": ([{"image_url": DATA_URL}], [("input_reference[][image_url]", DATA_URL)], PNG),
    "numbered list": ([{"file_id": UPLOAD}], [("input_reference[0][file_id]", UPLOAD)], UPLOAD),
    "empty list": ([], [("input_reference", "")], None),
    "nothing": (None, [("input_reference", b"", '; filename=""\r\ncontent-type: application/octet-stream')], None),
}  # fmt: skip
"""The value in JSON, the same as parts of a form, and what it stands for."""


@pytest.mark.parametrize("name", REFERENCES)
def test_a_picture_is_referred_to_in_json_as_in_forms(name: str) -> None:
    value, parts, image = REFERENCES[name]
    assert of_json(prompt="p", input_reference=value) == ({"prompt": "p"}, image)
    assert of_form(("prompt", "p"), *parts) == ({"prompt": "p"}, image)


@pytest.mark.parametrize(
    "part",
    [
        ("input_reference", PNG, NAMED),
        ("input_reference[]", PNG, NAMED),  # as a list of one is sent
        ("input_reference", PNG, "\r\ncontent-type: image/png"),  # OpenAI's client for Java
        ("input_reference", PNG, "\r\ncontent-type: application/octet-stream"),
        ("input_reference", PNG, '; filename=""'),
    ],
    ids=["named", "list", "image", "bytes", "nameless"],
)
def test_a_file_is_a_file_however_its_part_says_so(part: Part) -> None:
    assert of_form(("prompt", "p"), part) == ({"prompt": "p"}, PNG)


@pytest.mark.parametrize(
    ("value", "parts", "says"),
    [
        ({}, None, WAYS),
        (
            {"image_url": DATA_URL, "file_id": UPLOAD},
            [("input_reference[image_url]", DATA_URL), ("input_reference[file_id]", UPLOAD)], WAYS,
        ),
        (
            {"image_url": DATA_URL, "detail": "high"},
            [("input_reference[image_url]", DATA_URL), ("input_reference[detail]", "high")], WAYS,
        ),
        ({"url": DATA_URL}, [("input_reference[url]", DATA_URL)], WAYS),
        ({"image_url": {"url": DATA_URL}}, [("input_reference[image_url][url]", DATA_URL)], "image_url must be a text"),
        ({"image_url": UPLOAD}, [("input_reference[image_url]", UPLOAD)], "image_url must be a URL or a data URL"),
        ({"file_id": "file-abc"}, [("input_reference[file_id]", "file-abc")], "POST /v1/uploads gives"),
        ({"file_id": DATA_URL}, [("input_reference[file_id]", DATA_URL)], "POST /v1/uploads gives"),
        ({"file_id": 7}, [("input_reference[file_id]", PNG, NAMED)], "file_id must be a text"),
        (7, None, "must be a URL, the id of an upload, or an object"),
        ([[UPLOAD]], None, "must be a URL, the id of an upload, or an object"),
        ("a.png", [("input_reference", "a.png")], "must be a file, a URL, the id of an upload, or a data URL"),
        (
            [DATA_URL, UPLOAD], [("input_reference[]", PNG, NAMED), ("input_reference[]", PNG, NAMED)],
            "the models take 1, and these are 2",
        ),
        (
            [{"image_url": DATA_URL}] * 3,
            [("input_reference", PNG, NAMED), ("input_reference", PNG, NAMED), ("input_reference[file_id]", UPLOAD)],
            "the models take 1, and these are 3",
        ),
    ],
    ids=str,
)  # fmt: skip
def test_what_refers_to_no_picture_or_to_several_is_refused(
    value: Any, parts: Sequence[Part] | None, says: str
) -> None:
    with pytest.raises(InvalidRequest, match=says) as refused:
        of_json(prompt="p", input_reference=value)
    assert refused.value.param == "input_reference"
    if parts is not None:
        with pytest.raises(InvalidRequest, match=says):
            of_form(("prompt", "p"), *parts)


def test_several_large_pictures_are_refused_for_their_number() -> None:
    url = "data:image/png;base64," + "A" * MIB
    with pytest.raises(InvalidRequest, match="the models take 1, and these are 3"):
        of_json(input_reference=[{"image_url": url}, {"image_url": url}, url], prompt="p")


def test_a_form_is_the_json_that_it_flattens() -> None:
    nested = {
        "prompt": "p",
        "tags": ["a", "b"],
        "a": {"b": {"c": "d"}, "e": "f"},
        "l": [{"x": "1", "y": "2"}, {"x": "3"}],
    }
    parts = [
        ("prompt", "p"), ("tags[]", "a"), ("a[b][c]", "d"), ("l[][x]", "1"), ("l[][y]", "2"), ("tags[]", "b"),
        ("a[e]", "f"), ("l[][x]", "3"),
    ]  # fmt: skip
    assert of_form(*parts) == of_json(**nested) == (nested, None)
    deep = "a" + "[b]" * 40
    assert of_form((deep, "v"), ("[]", "v"), ("a]", "v"), ("]", "v"))[0] == {deep: "v", "[]": "v", "a]": "v", "]": "v"}


@pytest.mark.parametrize(
    "parts",
    [
        [("user", "a"), ("user", "b")],
        [("user", "a"), ("user[]", "b")],
        [("user[]", "a"), ("user[b]", "b")],
        [("user[a]", "a"), ("user[a]", "b")],
        [("user[a]", "a"), ("user", "b")],
        [("user[a]", "a"), ("user[a][]", "b")],
    ],
    ids=str,
)
def test_a_field_that_was_sent_twice_is_refused(parts: Sequence[Part]) -> None:
    with pytest.raises(InvalidRequest, match="sent twice") as refused:
        of_form(*parts)
    assert refused.value.param == "user"


def test_what_is_empty_or_null_was_not_given() -> None:
    page = [("prompt", "p"), ("model", ""), ("size", ""), ("seed", ""), ("fps", ""), ("user", ""), ("thumbnail", "")]
    assert of_form(*page, ("input_reference[image_url]", "")) == ({"prompt": "p"}, None)
    given = of_json(prompt="p", model=None, size=None, seed=None, priority=None, thumbnail=None, input_reference=None)
    assert given == ({"prompt": "p"}, None)
    assert parse_create(given[0]).priority == "normal"
    # An empty one is a value of its own: the model's own is not used.
    assert of_form(("prompt", "p"), ("negative_prompt", ""))[0] == {"prompt": "p", "negative_prompt": ""}
    assert of_json(prompt="p", user="")[0] == {"prompt": "p", "user": ""}


@pytest.mark.parametrize("name", ["extra_body", "extra_params"])
def test_fields_in_an_object_of_their_own_stand_beside_it(name: str) -> None:
    extra = {"seed": 7, "input_reference": {"image_url": DATA_URL}, "fps": None}
    assert of_json(prompt="p", **{name: extra}) == ({"prompt": "p", "seed": 7}, PNG)
    assert of_form(("prompt", "p"), (name, json.dumps(extra))) == ({"prompt": "p", "seed": 7}, PNG)
    flat: list[Part] = [("prompt", "p"), (f"{name}[seed]", "7"), (f"{name}[input_reference]", DATA_URL)]
    assert of_form(*flat) == ({"prompt": "p", "seed": "7"}, PNG)
    assert of_json(prompt="p", **{name: None}) == ({"prompt": "p"}, None)
    with pytest.raises(InvalidRequest, match="sent twice"):
        of_json(seed=1, **{name: {"seed": 2}})
    for no_object in (7, [1], "seed", "[1]", True):
        with pytest.raises(InvalidRequest, match=f"{name} must be an object of fields"):
            of_json(**{name: no_object})
    with pytest.raises(InvalidRequest, match="not known") as refused:
        parse_create(of_json(prompt="p", **{name: {"quality": "high"}})[0])
    assert (refused.value.param, refused.value.code) == ("quality", "unknown_field")


@pytest.mark.parametrize("name", ["n", "quality", "background", "style", "response_format"])
def test_a_field_without_a_meaning_here_is_refused(name: str) -> None:
    for fields in (of_json(prompt="p", **{name: 1})[0], of_form(("prompt", "p"), (name, "1"))[0]):
        with pytest.raises(InvalidRequest, match="not known; there are crf, ") as refused:
            parse_create(fields)
        assert (refused.value.param, refused.value.code) == (name, "unknown_field")


@pytest.mark.parametrize("size", ["96x64", "96X64", "96*64", "96×64", " 96 x 64 "])
def test_a_size_is_read_however_it_is_written(size: str) -> None:
    fields = parse_create({"prompt": "p", "size": size})
    assert fields.size == "96x64"


@pytest.mark.parametrize("size", ["96", "96x64x8", "96:64", "x", "9 6x64", "-96x64", "auto", "96xx64"])
def test_what_is_no_size_is_refused(size: str) -> None:
    with pytest.raises(InvalidRequest, match="size must be WIDTHxHEIGHT"):
        parse_create({"prompt": "p", "size": size})


@pytest.mark.parametrize("seconds", [4, 4.0, "4", "4.0", " 4 "])
def test_seconds_are_a_number_however_it_is_written(seconds: float | str) -> None:
    assert parse_create({"prompt": "p", "seconds": seconds}).duration() == 4


def test_a_form_says_numbers_and_switches_in_words() -> None:
    form = of_form(("seed", "7"), ("fps", "24.0"), ("thumbnail", "true"), ("spritesheet", "False"), ("crf", "20"))
    in_json = of_json(seed=7, fps=24, thumbnail=True, spritesheet=False, crf=20)
    assert parse_create(form[0]) == parse_create(in_json[0])
    assert parse_create(form[0]).thumbnail is True


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", True), ("fps", True), ("seconds", True), ("crf", True), ("guidance_scale", False), ("fps", 23.976),
        ("seed", "seven"), ("thumbnail", "perhaps"), ("seed", ["7"]), ("prompt", {"a": "b"}),
    ],
)  # fmt: skip
def test_a_value_of_another_kind_is_refused(field: str, value: object) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_create({field: value})
    assert refused.value.param == field


def padded(nbytes: int) -> bytes:
    """A picture of so many bytes that do not compress."""
    return PNG + random.Random(1).randbytes(nbytes - len(PNG))


def test_a_data_url_of_megabytes_is_taken_in_forms_and_in_json(tmp_path: Path) -> None:
    """On every route that takes a picture."""
    url = "data:image/png;base64," + base64.b64encode(padded(3 * MIB)).decode()
    sent: list[dict[str, Any]] = [
        {"files": {"prompt": (None, "p"), "input_reference": (None, url)}},
        {"files": {"prompt": (None, "p"), "input_reference[image_url]": (None, url)}},
        {"files": {"prompt": (None, "p"), "input_reference": ("a.png", padded(3 * MIB))}},
        {"json": {"prompt": "p", "input_reference": {"image_url": url}}},
    ]

    async def send_all() -> None:
        async with world.http() as http:
            source = (await http.post("/v1/videos", json={"prompt": "p"})).json()["id"]
            for path, accepted in (("/v1/videos", 200), ("/v1/videos/sync", 202), (f"/v1/videos/{source}/remix", 200)):
                for each in sent:
                    answer = await http.post(path, timeout=60, **each)
                    assert answer.status_code == accepted, (path, answer.text)
                    job = world.api.jobs.get(answer.json()["id"])
                    assert world.api.store.size(input_key(job)) is not None

    with run_api(tmp_path, sync_timeout_s=0.01) as world:
        asyncio.run(send_all())


def test_a_body_over_the_limit_is_413_in_json(tmp_path: Path) -> None:
    url = "data:image/png;base64," + "A" * MIB
    sent: list[dict[str, Any]] = [
        {"files": {"prompt": (None, "p"), "input_reference": ("a.png", padded(MIB))}},
        {"files": {"input_reference": (None, url)}},
        {"json": {"input_reference": {"image_url": url}}},
    ]

    async def send_all() -> list[httpx2.Response]:
        async with world.http() as http:
            return [await http.post("/v1/videos", **each) for each in sent]

    with run_api(tmp_path, max_body_bytes=MIB) as world:
        for answer in asyncio.run(send_all()):
            assert (answer.status_code, answer.json()["error"]["code"]) == (413, "payload_too_large")
            assert answer.json()["error"]["message"] == f"the body must be at most {MIB} bytes"


def test_the_parts_of_a_form_are_read_in_their_order() -> None:
    parts = read_form("multipart/form-data; boundary=x", encoded(("b", "1"), ("a", b"2", NAMED), ("a", "3")))
    assert [(part.name, part.data, part.is_file) for part in parts] == [
        ("b", b"1", False), ("a", b"2", True), ("a", b"3", False),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["extra_body", "extra_params"])
def test_what_is_null_beside_an_object_of_fields_was_not_given(name: str) -> None:
    for body in ({"seed": None, name: {"seed": 4}}, {"seed": 4, name: {"seed": None}}, {"seed": 4, name: ""}):
        assert spread(body) == {"seed": 4}
