"""The request fields, parameters and card of Stable Video Diffusion. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import BaseModel, Field

from pipelines.card import CheckpointCard, Component, Defaults, Parameters
from pipelines.errors import InvalidRequest
from pipelines.stages import Stage
from pipelines.strict import Finite

if TYPE_CHECKING:
    from pipelines.weights.network import Network


class SVDFields(BaseModel):
    """The request fields that only this family supports."""

    motion_bucket_id: Annotated[int, Field(ge=0, le=255)] | None = None
    """The amount of motion: 127 is the middle of the range on which the models were trained."""
    noise_aug_strength: Annotated[Finite, Field(ge=0, le=10)] | None = None
    """The noise added to the image: more noise lets the video depart further from the image."""
    min_guidance_scale: Annotated[Finite, Field(ge=0, le=100)] | None = None
    """The guidance of the first frame; guidance rises linearly to `max_guidance_scale` at the last frame."""
    max_guidance_scale: Annotated[Finite, Field(ge=0, le=100)] | None = None
    decode_chunk_size: Annotated[int, Field(ge=1, le=1000)] | None = None
    """The number of frames decoded together: fewer need less memory but give different pixels at the chunk edges."""


class SVDDefaults(Defaults):
    """The values of fields that a request does not set."""

    motion_bucket_id: int = 127
    noise_aug_strength: float = 0.02
    min_guidance_scale: float = 1.0
    max_guidance_scale: float = 3.0
    decode_chunk_size: int = 8


class SVDParameters(Parameters):
    """The effective parameters of one video. The UNet is also conditioned on `fps`."""

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
    FILES: ClassVar[Mapping[Component, tuple[str, ...]]] = dict.fromkeys(
        ("unet", "vae", "image_encoder"), (".safetensors",)
    )
    ONE_FILE: ClassVar[frozenset[Component]] = frozenset(FILES)
    TAKES_PROMPT: ClassVar[bool] = False
    NEEDS_IMAGE: ClassVar[bool] = True

    family: Literal["svd"]
    defaults: SVDDefaults

    @staticmethod
    def networks() -> Mapping[Component, Network]:
        from pipelines.svd.networks import NETWORKS

        return NETWORKS

    def default_parameters(self) -> SVDParameters:
        """The parameters of an empty request; the stages warm up with them."""
        return SVDParameters(**self.defaults.model_dump(), seed=0)

    def check(self, parameters: SVDParameters) -> None:
        """Check what no single field can check. Raises InvalidRequest."""
        low, high = parameters.min_guidance_scale, parameters.max_guidance_scale
        if low > high and low > 1:
            raise InvalidRequest(
                f"min_guidance_scale must be at most max_guidance_scale; they are {low:g} and {high:g}, "
                f"where {self.id}'s own are {self.defaults.min_guidance_scale:g} and "
                f"{self.defaults.max_guidance_scale:g}",
                param="min_guidance_scale",
            )
