"""Stable Video Diffusion as a request and a card know it. No torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, Field

from pipelines.card import CheckpointCard, CommonDefaults, CommonParameters, Component
from pipelines.errors import InvalidRequest
from pipelines.stages import Stage
from pipelines.strict import Finite


class SVDFields(BaseModel):
    """The fields of a request that only this family knows."""

    motion_bucket_id: Annotated[int, Field(ge=0, le=255)] | None = None
    """How much should move: 127 is the middle of what the models were trained on."""
    noise_aug_strength: Annotated[Finite, Field(ge=0, le=10)] | None = None
    """Noise added to the image: more lets the video depart further from it."""
    min_guidance_scale: Annotated[Finite, Field(ge=0, le=100)] | None = None
    """Guidance of the first frame; it rises linearly to the last."""
    max_guidance_scale: Annotated[Finite, Field(ge=0, le=100)] | None = None
    decode_chunk_size: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Frames decoded together: fewer need less memory, and give other pixels at the seams."""


class SVDDefaults(CommonDefaults):
    """What a request gets that does not say."""

    motion_bucket_id: int = 127
    noise_aug_strength: float = 0.02
    min_guidance_scale: float = 1.0
    max_guidance_scale: float = 3.0
    decode_chunk_size: int = 8


class SVDParameters(CommonParameters):
    """The effective parameters of one video. `fps` is also what the UNet is conditioned on."""

    family: Literal["svd"] = "svd"
    motion_bucket_id: int
    noise_aug_strength: float
    min_guidance_scale: float
    max_guidance_scale: float
    decode_chunk_size: int

    @property
    def guided(self) -> bool:
        """Whether classifier-free guidance runs, which doubles the batch."""
        return self.max_guidance_scale > 1.0


class SVDCard(CheckpointCard):
    """A Stable Video Diffusion model."""

    STAGES: ClassVar[dict[Stage, tuple[Component, ...]]] = {
        Stage.IMAGE_ENCODE: ("image_encoder", "feature_extractor", "vae"),
        Stage.DENOISE: ("unet", "scheduler"),
        Stage.DECODE: ("vae",),
    }
    TAKES_PROMPT: ClassVar[bool] = False
    NEEDS_IMAGE: ClassVar[bool] = True

    family: Literal["svd"]
    defaults: SVDDefaults

    def default_parameters(self) -> SVDParameters:
        """What the model does when nothing is said: what its stages warm up with."""
        return SVDParameters(**self.defaults.model_dump(), seed=0)

    def check(self, parameters: SVDParameters) -> None:
        """What no single field can know. Raises InvalidRequest."""
        low, high = parameters.min_guidance_scale, parameters.max_guidance_scale
        if low > high and low > 1:
            raise InvalidRequest(
                f"min_guidance_scale must be at most max_guidance_scale; they are {low:g} and {high:g}, "
                f"where {self.id}'s own are {self.defaults.min_guidance_scale:g} and "
                f"{self.defaults.max_guidance_scale:g}",
                param="min_guidance_scale",
            )
