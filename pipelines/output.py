"""The files of a video: the request fields for them, the effective choice, and the resulting files. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import BaseModel, Field

from pipelines.card import Parameters
from pipelines.strict import StrictModel

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

    @classmethod
    def of(cls, fields: OutputFields) -> Self:
        """The defaults, replaced by the values that a request sets; this ignores the request's other fields."""
        said = fields.model_dump(include=set(OutputFields.model_fields), exclude_none=True)
        return cls(**said)


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
