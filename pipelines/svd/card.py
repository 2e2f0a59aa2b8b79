"""The request fields, parameters and card of Stable Video Diffusion. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from pipelines.card import CheckpointCard, Component, Defaults, Dtype, Parameters
from pipelines.errors import InvalidRequest
from pipelines.fit import Fit, PictureFields
from pipelines.stages import Stage
from pipelines.strict import Finite, StrictModel

if TYPE_CHECKING:
    from pipelines.weights.network import Network


class SVDFields(PictureFields):
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
    fit: Fit = "cover"


class SVDRecipe(StrictModel):
    """Settings that replace a card's own; None leaves what the card has."""

    num_inference_steps: int | None = None
    """Replaces `defaults.num_inference_steps`."""
    min_guidance_scale: float | None = None
    """Replaces `defaults.min_guidance_scale`."""
    max_guidance_scale: float | None = None
    """Replaces `defaults.max_guidance_scale`."""
    decode_dtype: Dtype | None = None
    """Replaces the card's `decode_dtype`."""


class SVDParameters(Parameters):
    """The effective parameters of one video. The UNet is also conditioned on `fps`."""

    family: Literal["svd"] = "svd"
    motion_bucket_id: int
    noise_aug_strength: float
    min_guidance_scale: float
    max_guidance_scale: float
    decode_chunk_size: int
    # Without it, a job's row is of a Kinoray that stretched every picture.
    fit: Fit = "stretch"

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
    decode_dtype: Dtype | None = None
    """The dtype in which the decode stage computes; None is that of `dtype`. The files stay those of `source`."""
    recipe: Literal["diffusers", "stability"] = "diffusers"
    """Whose settings a request begins from: those of `defaults`, or with what `stability` changes of them."""
    stability: SVDRecipe | None = None
    """What Stability AI's own code does otherwise than diffusers; without effect unless `recipe` chooses it.

    Source: `simple_video_sample.py` and its configs in Stability-AI/generative-models. That also decodes 14 frames
    together, which is left to `decode_chunk_size`, since it takes far more memory.
    """

    @model_validator(mode="after")
    def _take_recipe(self) -> Self:
        if self.recipe == "diffusers":
            return self
        if self.stability is None:
            raise ValueError(
                "recipe is stability, but there is no block `stability`: add its settings, or use diffusers"
            )
        said = self.stability.model_dump(exclude_none=True)
        decode_dtype = said.pop("decode_dtype", self.decode_dtype)
        # Everything else reads these two only, and finds the card frozen.
        object.__setattr__(self, "decode_dtype", decode_dtype)
        object.__setattr__(self, "defaults", self.defaults.model_copy(update=said))
        return self

    @staticmethod
    def networks() -> Mapping[Component, Network]:
        from pipelines.svd.networks import NETWORKS

        return NETWORKS

    def shared_by(self, stage: Stage) -> object:
        shared = super().shared_by(stage)
        return (shared, self.decode_dtype) if stage is Stage.DECODE else shared

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
