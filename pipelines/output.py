"""The files of a video: the request fields for them, the effective choice, and the resulting files. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Self, TypeVar

from pydantic import BaseModel, Field

from pipelines.card import Parameters
from pipelines.shape import Asked, even
from pipelines.strict import StrictModel

P = TypeVar("P", bound=Parameters)

ConstantRateFactor = Annotated[int, Field(ge=0, le=51)]
"""H.264's quality scale: lower looks better and takes more bytes. 0 is lossless, which many browsers do not play."""


class OutputFields(BaseModel):
    """The request fields that change the video's files but not its frames; None means the default of `Output`."""

    thumbnail: bool | None = None
    spritesheet: bool | None = None
    crf: ConstantRateFactor | None = None


class Output(StrictModel):
    """The effective choice for one video."""

    thumbnail: bool = True
    spritesheet: bool = True
    crf: ConstantRateFactor = 18
    width: int | None = None
    """Of the file; None where it is what the model renders."""
    height: int | None = None
    num_frames: int | None = None

    @classmethod
    def of(cls, fields: OutputFields) -> Self:
        """The defaults, replaced by the values that a request sets; this ignores the request's other fields."""
        said = fields.model_dump(include=set(OutputFields.model_fields), exclude_none=True)
        return cls(**said)

    def shaped(self, asked: Asked, parameters: Parameters) -> Self:
        """The same with the shape of the file, for the video that is rendered for it."""
        size = asked.size or (parameters.width, parameters.height)
        width, height = map(even, size)
        num_frames = asked.frames(parameters.fps)
        shape: dict[str, int | None] = {"num_frames": None if num_frames == parameters.num_frames else num_frames}
        if (width, height) != (parameters.width, parameters.height):
            shape.update(width=width, height=height)
        return self.model_copy(update=shape)

    def delivered(self, parameters: P) -> P:
        """The parameters of a rendered video, with the shape that its file has."""
        width, height = self.width or even(parameters.width), self.height or even(parameters.height)
        num_frames = self.num_frames or parameters.num_frames
        return parameters.model_copy(update={"width": width, "height": height, "num_frames": num_frames})


@dataclass(frozen=True, slots=True)
class RenderedVideo:
    """One video's files, as a decoder passes them to the publisher."""

    mp4: bytes
    thumbnail: bytes | None  # WebP, the middle frame; None when the request wants none
    spritesheet: bytes | None  # WebP, a grid of frames; None when the request wants none


def metadata_of(model: str, parameters: Parameters) -> dict[str, object]:
    """The metadata in a video's file about how it was made; nothing in it differs between two runs of one seed."""
    return {
        "model": model,
        "seed": parameters.seed,
        "steps": parameters.num_inference_steps,
        "size": f"{parameters.width}x{parameters.height}",
        "fps": parameters.fps,
    }
