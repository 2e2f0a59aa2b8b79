"""The fields of a create request, and how they are checked."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema, field_validator

from deployments.configuration.settings import TEN_YEARS_S
from jobs.priority import Priority
from pipelines.card import RequestFields
from pipelines.errors import InvalidRequest
from pipelines.output import OutputFields
from pipelines.requests import GenerationRequest, with_family_fields
from pipelines.shape import Asked
from pipelines.wrong_values import wrong

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
    first = error.errors(include_input=False, include_url=False)[0]
    param = speakable(str(first["loc"][0])) if first["loc"] else None
    if first["type"] == "extra_forbidden":
        known = ", ".join(sorted(model.model_fields))
        return InvalidRequest(f"this field is not known; there are {known}", param=param, code="unknown_field")
    return InvalidRequest(f"{param or 'the body'} {wrong(first)}", param=param)
