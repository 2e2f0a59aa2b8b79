"""What is made of a video's frames: what a request may say, what will be done, and what comes of it. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import BaseModel, Field

from pipelines.strict import StrictModel

ConstantRateFactor = Annotated[int, Field(ge=0, le=51)]
"""H.264's quality scale: lower looks better and takes more bytes. 0 is lossless, which many browsers do not play."""


class OutputFields(BaseModel):
    """The fields of a request that change its files and not its frames; None means the default of `Output`."""

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
        """The defaults, with what a request says in their place; a request's other fields are left alone."""
        said = fields.model_dump(include=set(OutputFields.model_fields), exclude_none=True)
        return cls(**said)


@dataclass(frozen=True, slots=True)
class RenderedVideo:
    """One video's files, as a decoder hands them to the publisher."""

    mp4: bytes
    thumbnail: bytes | None  # WebP, the middle frame; None when the request wants none
    spritesheet: bytes | None  # WebP, a grid of frames; None when the request wants none
