"""The JSON objects of the API: the create request, and the Video object with OpenAI's field names first, then ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema, field_validator

from deployments.configuration.settings import TEN_YEARS_S
from deployments.http.queue_view import Place
from jobs.lifecycle import Status
from jobs.priority import Priority
from jobs.record import Job
from pipelines.card import ModelCard, RequestFields
from pipelines.errors import InvalidRequest
from pipelines.output import OutputFields
from pipelines.requests import GenerationRequest, with_family_fields
from pipelines.shape import Asked
from pipelines.weights.origin import download_gb, origins
from pipelines.weights.pin import Commits

MAX_FIELDS = 64
"""The most fields of a request; there are half as many."""
MAX_FIELDS_BYTES = 256 * 2**10
"""The most bytes of all fields but the image. Far more than any prompt has, and read in a few milliseconds."""


_TEXT: dict[str, Any] = {"type": "string"}
_OBJECT = {
    "type": "object", "properties": {"image_url": _TEXT, "file_id": _TEXT},
    "minProperties": 1, "maxProperties": 1, "additionalProperties": False,
}  # fmt: skip
_ONE: list[dict[str, Any]] = [_TEXT, _OBJECT]
REFERENCE = {"anyOf": [*_ONE, {"type": "array", "items": {"anyOf": _ONE}, "maxItems": 1}, {"type": "null"}]}
"""The schema of `input_reference` in JSON, which is read apart from the other fields."""


class CreateFields(OutputFields, RequestFields):
    """The fields of a create request that do not depend on the families."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = None
    """An id from GET /v1/models."""
    size: str | None = Field(default=None, pattern=r"^\d{1,5}x\d{1,5}$")
    """WIDTHxHEIGHT of the file. The model renders the nearest size that it can, and the frames are cropped to this."""
    seconds: str | float | None = None
    """Length of the file, to the nearest frame. The model renders as many frames or more."""
    input_reference: Annotated[str | None, WithJsonSchema(REFERENCE)] = None
    """The first frame: a file in a form, the id of an upload, or a URL, which may be a data URL. See `reference`."""
    priority: Literal["high", "normal", "low"] = Priority.NORMAL.value
    """Which class of the queue it waits in."""
    webhook_url: str | None = Field(default=None, max_length=2048)
    """Told when the video is completed or has failed."""
    expires_in: Annotated[int, Field(ge=1, le=TEN_YEARS_S)] | None = None
    """Seconds that the finished files stay."""
    user: str | None = Field(default=None, max_length=256)
    """Who asks, for your own records."""

    @field_validator("size", mode="before")
    @classmethod
    def _as_openai_writes_it(cls, size: object) -> object:
        """Other services write `720*1280` or `720X1280`, and mean the same."""
        return re.sub(r"\s*[xX*\u00d7]\s*", "x", size.strip()) if isinstance(size, str) else size

    def generation(self) -> RequestFields:
        """What the request says of the video that is rendered."""
        return GenerationRequest.model_construct(**self.model_dump(include=set(GenerationRequest.model_fields)))

    def asked(self) -> Asked:
        """What the request says of the file: `size` and `seconds`."""
        if self.size is None:
            return Asked(seconds=self.duration())
        if self.width is not None or self.height is not None:
            raise InvalidRequest("give size, or width and height, not both", param="size")
        width, height = map(int, self.size.split("x"))
        return Asked((width, height), self.duration())

    def duration(self) -> float | None:
        """`seconds` as a number; OpenAI's clients send it as a string."""
        if self.seconds is None:
            return None
        try:
            value = float(self.seconds)
        except ValueError:
            value = -1.0
        if not 0 < value <= 3600:
            raise InvalidRequest("seconds must be a number above 0 and at most 3600", param="seconds")
        if self.num_frames is not None:
            raise InvalidRequest("give seconds or num_frames, not both", param="seconds")
        return value


CreateVideo = with_family_fields(CreateFields, "CreateVideo")
"""The body of POST /v1/videos, as JSON or as form fields. A remix takes what it does not say from its source."""


_NO_SWITCHES = {name for name, field in CreateVideo.model_fields.items() if bool not in get_args(field.annotation)}
"""The fields that are not true or false; a number would else take these for 1 and 0."""


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

    @classmethod
    def of(cls, card: ModelCard, commits: Commits, unavailable_reason: str | None) -> Model:
        limits = {**card.limits.model_dump(), "frames_multiple": card.compression.temporal}
        return cls(
            id=card.id, name=card.name, family=card.family, license=card.license, source=origins(card, commits),
            download_gb=download_gb(card), available=unavailable_reason is None, unavailable_reason=unavailable_reason,
            prompt="required" if card.TAKES_PROMPT else "ignored", input_reference=_takes_image(card),
            limits=limits, defaults=card.defaults.model_dump(exclude_none=True),
            allowed_num_inference_steps=list(card.allowed_num_inference_steps) or None,
            recommended_sizes=list(card.recommended_sizes), advice=card.advice,
        )  # fmt: skip


def _takes_image(card: ModelCard) -> Literal["required", "optional", "ignored"]:
    if card.NEEDS_IMAGE:
        return "required"
    return "optional" if card.takes_image else "ignored"


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]


def speakable(name: str) -> str | None:
    """A field's name for an error, or None if it is not a valid name: parts of a misread body must not be echoed."""
    return name if re.fullmatch(r"[A-Za-z_]\w{0,63}", name, re.ASCII) else None


def parse_create(fields: dict[str, Any]) -> CreateFields:
    """Validate the fields of a create request.

    Raises:
        InvalidRequest: for the first field at fault. The message never repeats what was sent.
    """
    for name, value in fields.items():
        if isinstance(value, str):
            _check_text(value, speakable(name))
        if isinstance(value, bool) and name in _NO_SWITCHES:
            raise InvalidRequest(f"{name} is neither true nor false: give its value", param=name)
    try:
        return CreateVideo.model_validate(fields)
    except ValidationError as error:
        refusal = refused(error, CreateVideo)
    if refusal.param == "size":
        raise InvalidRequest("size must be WIDTHxHEIGHT in pixels, such as 704x480", param="size")
    raise refusal


def _check_text(value: str, param: str | None) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidRequest("this field holds half a surrogate pair, which is no text", param=param) from None
    if "\0" in value:
        raise InvalidRequest("this field holds a NUL character, which is no text", param=param)


def refused(error: ValidationError, model: type[BaseModel]) -> InvalidRequest:
    """The error about the first field at fault, without the value that was sent."""
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    param = speakable(str(first["loc"][0])) if first["loc"] else None
    if first["type"] == "extra_forbidden":
        known = ", ".join(sorted(model.model_fields))
        return InvalidRequest(f"this field is not known; there are {known}", param=param, code="unknown_field")
    return InvalidRequest(f"{param or 'the body'}: {first['msg'][:1].lower()}{first['msg'][1:]}", param=param)
