"""What a create request is refused for: with a sentence that says what to do, and nothing is stored."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request
from PIL import Image
from starlette.testclient import TestClient

from deployments.configuration.api_keys import SCOPES, KeyLimits
from deployments.http import error_handler
from deployments.http.auth import Caller
from deployments.http.body import read_body
from deployments.http.submission import CreateRequest
from tests.harness.data_urls import data_url
from tests.unit.conftest import Jobs
from tests.unit.door import PICTURE, Door

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)

PNG = PICTURE.getvalue()
GIF = io.BytesIO()
Image.new("RGB", (8, 8)).save(GIF, "GIF", save_all=True, append_images=[Image.new("RGB", (8, 8), "red")])
THIN = io.BytesIO()
Image.new("RGB", (90, 10)).save(THIN, "PNG")
HUGE = io.BytesIO()
Image.new("1", (10_000, 6_000)).save(HUGE, "PNG")


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"model": "sora-2"}, "model", "ltx-tiny"),
    ({"colour": "red"}, "colour", "not known"),
    ({"prompt": " "}, "prompt", "empty"),
    ({"prompt": "x" * 1001}, "prompt", "1000"),
    ({"negative_prompt": "x" * 1001}, "negative_prompt", "1000"),
    ({"width": 100}, "width", "96 and 128"),
    ({"height": 2048}, "height", "between 32 and 1024"),
    ({"size": "big"}, "size", "WIDTHxHEIGHT"),
    ({"size": "64x64", "width": 64}, "size", "not both"),
    ({"num_frames": 10}, "num_frames", "9 and 11"),
    ({"num_frames": 0}, "num_frames", "between 1"),
    ({"width": 1024, "height": 1024, "num_frames": 257}, "num_frames", "at most"),
    ({"num_inference_steps": 0}, "num_inference_steps", "must be at least 1"),
    ({"num_inference_steps": 1001}, "num_inference_steps", "1000"),
    ({"guidance_scale": "nan"}, "guidance_scale", "finite"),
    ({"guidance_rescale": 2}, "guidance_rescale", "must be at most 1"),
    ({"seconds": "-1"}, "seconds", "above 0"),
    ({"seconds": "soon"}, "seconds", "number"),
    ({"seed": -2}, "seed", "must be at least -1"),
    ({"fps": 0}, "fps", "must be at least 1"),
    ({"input_reference": "http://example.org/x.png"}, "input_reference", "https"),
    ({"input_reference": data_url(b"not an image")}, "input_reference", "cannot be read"),
    ({"input_reference": data_url(PNG[:-200])}, "input_reference", "cannot be read"),
    ({"input_reference": data_url(GIF.getvalue())}, "input_reference", "animated"),
    ({"input_reference": data_url(THIN.getvalue())}, "input_reference", "at most 8 times"),
    ({"input_reference": data_url(HUGE.getvalue())}, "input_reference", "at most 50000000 pixels"),
    ({"motion_bucket_id": 127}, "motion_bucket_id", "ltx-tiny has no motion_bucket_id"),
    ({"model": "svd-tiny"}, "input_reference", "makes a video from an image"),
    ({"model": "svd-tiny", "input_reference": data_url(b"not an image")}, "input_reference", "cannot be read"),
    ({"model": "svd-tiny", "input_reference": data_url(GIF.getvalue())}, "input_reference", "animated"),
    (
        {"model": "svd-tiny", "input_reference": data_url(PNG), "guidance_scale": 3},
        "guidance_scale",
        "svd-tiny has no guidance_scale; its settings are decode_chunk_size",
    ),
    (
        {"model": "svd-tiny", "input_reference": data_url(PNG), "motion_bucket_id": 256},
        "motion_bucket_id",
        "must be at most 255",
    ),
]


class Front:
    """A create request's way over HTTP to what accepts it, and all that has been stored."""

    def __init__(self, jobs: Jobs, folder: Path) -> None:
        app, door = FastAPI(), Door(jobs, folder)
        error_handler.install(app)

        @app.post("/v1/videos")
        async def create(request: Request) -> str:
            fields, image = await read_body(request, 32 * 2**20)
            return (await door.submission.accept(CreateRequest(fields, image, Caller("k", SCOPES, KeyLimits())))).id

        self.http = TestClient(app)
        self._jobs, self._artifacts = jobs, door.artifacts

    def stored(self) -> list[Any]:
        return [*self._jobs.store.page(after=None, limit=9, newest_first=True)[0], *self._artifacts.list("")]


@pytest.fixture
def front(jobs: Jobs, tmp_path: Path) -> Front:
    return Front(jobs, tmp_path)


def test_what_is_refused_below_is_otherwise_taken(front: Front) -> None:
    for fields in ({"prompt": "a cat"}, {"model": "svd-tiny", "input_reference": data_url(PNG)}):
        assert front.http.post("/v1/videos", json=fields).status_code == 200
    assert len(front.stored()) == 3


@pytest.mark.parametrize(("fields", "param", "says"), REFUSED, ids=lambda value: str(value)[:40])
def test_refuses_with_a_sentence_and_stores_nothing(
    front: Front, fields: dict[str, Any], param: str, says: str
) -> None:
    response = front.http.post("/v1/videos", json={"prompt": "a cat", **fields})
    error = response.json()["error"]
    assert response.status_code == 400, response.text
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert says in error["message"]
    assert front.stored() == []


@pytest.mark.parametrize("body", [b"{", b"[1]", b'"x"', b"\xff", b'{"prompt": NaN}', b"[" * 100000])
def test_malformed_json_is_400(front: Front, body: bytes) -> None:
    response = front.http.post("/v1/videos", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("body", [b'{"prompt": "\\ud800"}', b'{"prompt": "a\\u0000b"}'])
def test_a_prompt_that_is_no_text_is_refused(front: Front, body: bytes) -> None:
    response = front.http.post("/v1/videos", content=body, headers={"content-type": "application/json"})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "prompt")
