"""An example of every request and every JSON answer, for /openapi.json.

The answers are built by the same code that builds real ones, so they have every field that those have.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from deployments.http.queue_view import Place
from deployments.http.schemas import DeletedVideo, ErrorAnswer, ErrorDetail, Model, ModelList, Video, VideoList
from deployments.http.uploads import BeginUpload, Upload
from jobs.lifecycle import Status
from jobs.record import Job
from jobs.stored import ResultMetadata
from pipelines.card import ModelCard
from pipelines.catalogue import CATALOGUE, load_card
from pipelines.output import Output
from pipelines.stages import Stage

MODEL = "ltx-tiny"
CREATED_AT = 1_790_000_000
VIDEO_ID, SOURCE_ID = "video_01a0c4d1b40070008000000000000001", "video_01a0c4d1b40070008000000000000000"
UPLOAD_ID = "upload_01a0c4d1b40070008000000000000001"
PROMPT = "a red circle moves left on a white background"
REQUEST: dict[str, Any] = {"model": MODEL, "prompt": PROMPT, "seed": 7}

Examples = Mapping[str, Any]
"""The examples of one body, by name."""

_ERRORS: dict[int, ErrorDetail] = {
    status: ErrorDetail(
        message=message, type="invalid_request_error" if status < 500 else "server_error", param=param, code=code
    )
    for status, message, param, code in (
        (400, "prompt must not be empty; describe the video", "prompt", "invalid_request"),
        (401, "the API key is missing or unknown", None, "invalid_api_key"),
        (403, "this API key may not submit", None, "insufficient_scope"),
        (404, "no such video; it may have been deleted", "video_id", "not_found"),
        (408, "the body did not arrive in time; send the request again", None, "body_timeout"),
        (413, "the body must be at most 33554432 bytes", None, "payload_too_large"),
        (416, "the file has 9100 bytes, and none of these", "Range", "range_not_satisfiable"),
        (422, "this Idempotency-Key was sent with another request; choose a new one", None, "idempotency_key_reused"),
        (429, "too many jobs wait; send it again in 2 s", None, "rate_limit_exceeded"),
        (500, f"{VIDEO_ID} failed: the model made no picture", None, "nan_in_output"),
        (501, "no model of this service can do that; GET /v1/models lists what they can", None, "not_implemented"),
        (503, "the job store cannot be reached; nothing was accepted; send it again", None, "unavailable"),
    )
}


def request_examples(path: str, kind: str) -> Examples:
    """Of a POST's body, by its path and media type; none where there is nothing to say."""
    picture: Any = {"image_url": "https://example.com/first-frame.png"}
    if path == "/v1/uploads":
        return {"a PNG of 120 kB": BeginUpload(bytes=120_000, mime_type="image/png").model_dump()}
    if path.endswith("/remix"):
        return {"another prompt": {"prompt": "a blue square moves up on a white background"}}
    if kind == "multipart/form-data":
        return {"from text": {**REQUEST, "size": "64x64", "seconds": "1"}}
    return {
        "from text": REQUEST,
        "from text and a picture": {**REQUEST, "input_reference": picture},
        "from an upload": {**REQUEST, "input_reference": {"file_id": UPLOAD_ID}},
    }


def answer_examples(path: str, method: str, status: int) -> Examples:
    """Of an operation's JSON answer with a status."""
    if path == "/readyz":
        return _READY[status]
    if (error := _ERRORS.get(status)) is not None:
        return {error.code: ErrorAnswer(error=error).model_dump()}
    if path == "/healthz":
        return {"alive": {"status": "ok"}}
    if path == "/v1/models":
        return {"one model": _dump(ModelList(data=[Model.of(_card(), {}, None)]))}
    if path == "/v1/uploads":
        return {"a place in the service": _dump(_upload())}
    if method == "delete":
        return {"deleted": _dump(DeletedVideo(id=VIDEO_ID))}
    if path == "/v1/videos" and method == "get":
        done = _completed()
        return {"one page": _dump(VideoList(data=[done], first_id=done.id, last_id=done.id, has_more=False))}
    if path == "/v1/videos/{video_id}/cancel":
        return {"canceled": _dump(_canceled())}
    if path == "/v1/videos/{video_id}/remix":
        return {"queued": _dump(_queued(SOURCE_ID))}
    videos = {"queued": _dump(_queued())}
    return {**videos, "completed": _dump(_completed())} if method == "get" else videos


_READY: dict[int, Examples] = {
    200: {"ready": {"status": "ready", "waiting_for": [], "cannot_start": {}}},
    503: {"loading": {"status": "loading", "waiting_for": ["Denoiser-ltx-tiny"], "cannot_start": {}}},
}


@cache
def _card() -> ModelCard:
    return load_card(CATALOGUE / f"{MODEL}.yaml")


def _job(**values: Any) -> Job:
    parameters = {**_card().default_parameters().model_dump(mode="json"), "seed": REQUEST["seed"]}
    return Job(
        VIDEO_ID, MODEL, PROMPT, parameters, CREATED_AT, output=Output().model_dump(), api_key="me", **values
    )  # fmt: skip


def _queued(source: str | None = None) -> Video:
    return Video.of(_job(remixed_from=source), Place(position=1, eta_s=4.5), {})


def _canceled() -> Video:
    job = _job(
        status=Status.FAILED, completed_at=CREATED_AT + 2, error_code="canceled", error_message="canceled on request"
    )
    return Video.of(job, Place(), {})


def _completed() -> Video:
    job = _job(
        status=Status.COMPLETED, progress=100, attempts=1, started_at=CREATED_AT + 1, completed_at=CREATED_AT + 6,
        stage_seconds={Stage.TEXT_ENCODE: 0.1, Stage.DENOISE: 3.2, Stage.DECODE: 0.9, Stage.PUBLISH: 0.1},
        result_metadata=ResultMetadata(
            device="cuda", dtype="bfloat16", attention="sdpa", model_revision="sha256:0f5e", frames=33, bytes=9_100
        ),
    )  # fmt: skip
    path = f"/v1/videos/{VIDEO_ID}/content?variant="
    return Video.of(job, Place(), {each: path + each for each in ("video", "thumbnail", "spritesheet")})


def _upload() -> Upload:
    return Upload(
        id=UPLOAD_ID, url=f"http://127.0.0.1:8000/v1/uploads/{UPLOAD_ID}", expires_at=CREATED_AT + 86_400,
        headers={"content-type": "image/png", "content-length": "120000"},
    )  # fmt: skip


def _dump(answer: Any) -> Any:
    return answer.model_dump(mode="json")
