"""The JSON objects that the API answers with: the Video with OpenAI's field names first, then ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel

from deployments.http.queue_view import Place
from jobs.lifecycle import Status
from jobs.priority import Priority
from jobs.record import Job
from pipelines.card import ModelCard
from pipelines.weights.origin import download_gb, origins
from pipelines.weights.pin import Commits


class VideoError(BaseModel):
    code: str
    message: str


class Rendered(BaseModel):
    """The shape that the model rendered for a file of another shape."""

    size: str
    num_frames: int


class Video(BaseModel):
    """A job as clients see it."""

    id: str
    object: Literal["video"] = "video"
    model: str
    status: Status
    progress: int
    created_at: int
    completed_at: int | None
    expires_at: int | None = None
    seconds: str
    size: str
    prompt: str
    error: VideoError | None
    remixed_from_video_id: str | None = None
    # Ours.
    seed: int
    stage: str | None
    attempts: int
    parameters: dict[str, Any]
    rendered: Rendered | None
    """Where the file has another shape than the video that is rendered for it."""
    stage_seconds: dict[str, float]
    result_metadata: dict[str, Any]
    user: str | None
    priority: Priority
    step: int | None
    queue_position: int | None
    eta_seconds: float | None
    model_revision: str | None
    degradations: list[str]
    urls: dict[str, str]

    @classmethod
    def of(cls, job: Job, place: Place, urls: dict[str, str]) -> Video:
        # Not as its family's parameters: the family may belong to another version, or to a package that is gone.
        rendered, output = job.parameters, job.output
        shape = {name: output.get(name) or rendered[name] for name in ("width", "height", "num_frames")}
        differs = any(shape[name] != rendered[name] for name in shape)
        error = None
        if job.error_code is not None:
            error = VideoError(code=job.error_code, message=job.error_message or "")
        return cls(
            id=job.id,
            model=job.model,
            status=job.status,
            progress=job.progress,
            created_at=int(job.created_at),
            completed_at=None if job.completed_at is None else int(job.completed_at),
            expires_at=None if job.expires_at is None else int(job.expires_at),
            seconds=f"{shape['num_frames'] / rendered['fps']:g}",
            size=_size(shape),
            prompt=job.prompt,
            error=error,
            remixed_from_video_id=job.remixed_from,
            seed=rendered["seed"],
            stage=job.stage,
            attempts=job.attempts,
            parameters=job.parameters,
            rendered=Rendered(size=_size(rendered), num_frames=rendered["num_frames"]) if differs else None,
            stage_seconds=job.stage_seconds,
            result_metadata=job.result_metadata.written(),
            user=job.user,
            priority=job.priority,
            step=job.step,
            queue_position=place.position,
            eta_seconds=place.eta_s,
            model_revision=job.result_metadata.model_revision,
            degradations=list(job.result_metadata.degradations or ()),
            urls=urls,
        )


def _size(shape: Mapping[str, Any]) -> str:
    return f"{shape['width']}x{shape['height']}"


class VideoList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Video]
    first_id: str | None
    last_id: str | None
    has_more: bool


class ErrorDetail(BaseModel):
    message: str
    type: Literal["invalid_request_error", "server_error"]
    param: str | None
    code: str


class ErrorAnswer(BaseModel):
    """Every answer that is not a success."""

    error: ErrorDetail


class DeletedVideo(BaseModel):
    id: str
    deleted: Literal[True] = True
    object: Literal["video.deleted"] = "video.deleted"


class Model(BaseModel):
    """A model this service runs, with what a request may ask of it."""

    id: str
    object: Literal["model"] = "model"
    owned_by: Literal["kinoray"] = "kinoray"
    name: str
    family: str
    license: str
    source: dict[str, dict[str, str]]
    """Where each component's weights are from: a folder, a file, or a repository of the hub with its commit."""
    download_gb: float | None
    """What is fetched for it, in 10^9 bytes, where its card says so."""
    available: bool
    """False when a stage of it was given up, so that its jobs fail. While one loads or is tried again, they wait."""
    unavailable_reason: str | None
    prompt: Literal["required", "ignored"]
    input_reference: Literal["required", "optional", "ignored"]
    """Whether it takes a picture."""
    limits: dict[str, Any]
    defaults: dict[str, Any]
    """The values of the fields that a request does not set, and what its card alone sets. A list of guidance has a
    value for each noise level in `guidance_timesteps`."""
    allowed_num_inference_steps: list[int] | None
    """The only possible values of a distilled model; null if any number is possible."""
    recommended_sizes: list[str]
    """The sizes with which it works best, the first one before all others."""
    advice: str | None
    """What makes good videos."""
    vocabulary: list[str]
    """The only words that the model knows; none for one that was trained on language."""

    @classmethod
    def of(cls, card: ModelCard, commits: Commits, unavailable_reason: str | None) -> Model:
        limits = {**card.limits.model_dump(), "frames_multiple": card.compression.temporal}
        return cls(
            id=card.id, name=card.name, family=card.family, license=card.license, source=origins(card, commits),
            download_gb=download_gb(card), available=unavailable_reason is None, unavailable_reason=unavailable_reason,
            prompt="required" if card.TAKES_PROMPT else "ignored", input_reference=_takes_image(card),
            limits=limits, defaults=card.defaults.model_dump(exclude_none=True),
            allowed_num_inference_steps=list(card.allowed_num_inference_steps) or None,
            recommended_sizes=list(card.recommended_sizes), advice=card.advice, vocabulary=list(card.vocabulary),
        )  # fmt: skip


def _takes_image(card: ModelCard) -> Literal["required", "optional", "ignored"]:
    if card.NEEDS_IMAGE:
        return "required"
    return "optional" if card.takes_image else "ignored"


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]
