"""The request fields, parameters and card of LTX-Video. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, Field, model_validator

from pipelines.card import CheckpointCard, Component, Defaults, Parameters
from pipelines.errors import InvalidRequest
from pipelines.stages import Stage
from pipelines.strict import Finite

if TYPE_CHECKING:
    from pipelines.weights.network import Network

Schedule = Literal["uniform", "linear-quadratic"]
"""The spacing of the noise levels: linear-quadratic from release 0.9.5 on, as in `LTXConditionPipeline`."""


class LTXFields(BaseModel):
    """The request fields that only this family supports."""

    negative_prompt: str | None = None
    guidance_scale: Annotated[Finite, Field(ge=0, le=100)] | None = None
    guidance_rescale: Annotated[Finite, Field(ge=0, le=1)] | None = None


class LTXDefaults(Defaults):
    """The values of fields that a request does not set or cannot set.

    `schedule` and `causal_positions` have no default, since the releases differ in them and a wrong one distorts.
    """

    schedule: Schedule
    causal_positions: bool
    """Whether the first frame stands alone in time, as the releases from 0.9.5 on are trained."""
    t5_attends_to_padding: bool = True
    """Whether T5 sees the padding after a prompt, as in diffusers. The makers' own code masks it."""
    guidance_scale: float
    guidance_rescale: float = 0.0
    negative_prompt: str = ""
    decode_timestep: float = 0.0
    decode_noise_scale: float | None = None
    max_sequence_length: int = 128
    timesteps: tuple[float, ...] | None = None
    """A distilled model's own schedule, in descending order from 1000. It fixes num_inference_steps."""

    @model_validator(mode="after")
    def _schedule_fixes_steps(self) -> Self:
        if self.timesteps is not None and len(self.timesteps) != self.num_inference_steps:
            raise ValueError("num_inference_steps must be the length of timesteps")
        return self


class LTXParameters(Parameters):
    """The effective parameters of one video."""

    family: Literal["ltx"] = "ltx"
    # Without these three, a job's row is of a Kinoray that knew only these values.
    schedule: Schedule = "uniform"
    causal_positions: bool = False
    t5_attends_to_padding: bool = True
    guidance_scale: float
    guidance_rescale: float
    negative_prompt: str
    decode_timestep: float
    decode_noise_scale: float | None
    max_sequence_length: int
    timesteps: tuple[float, ...] | None

    @property
    def guided(self) -> bool:
        """Whether classifier-free guidance runs, which doubles the batch."""
        return self.guidance_scale > 1.0


class LTXCard(CheckpointCard):
    """An LTX-Video model."""

    STAGES: ClassVar[dict[Stage, tuple[Component, ...]]] = {
        Stage.TEXT_ENCODE: ("text_encoder", "tokenizer"),
        Stage.IMAGE_ENCODE: ("vae",),
        Stage.DENOISE: ("transformer", "scheduler"),
        Stage.DECODE: ("vae",),
    }
    FILES: ClassVar[Mapping[Component, tuple[str, ...]]] = {
        "transformer": (".safetensors", ".gguf"),
        "vae": (".safetensors",),
        "text_encoder": (".safetensors", ".gguf"),
    }
    ONE_FILE: ClassVar[frozenset[Component]] = frozenset({"transformer", "vae"})
    TAKES_PROMPT: ClassVar[bool] = True
    NEEDS_IMAGE: ClassVar[bool] = False

    family: Literal["ltx"]
    defaults: LTXDefaults

    @staticmethod
    def networks() -> Mapping[Component, Network]:
        from pipelines.ltx.networks import NETWORKS

        return NETWORKS

    def default_parameters(self) -> LTXParameters:
        """The parameters of an empty request; the stages warm up with them."""
        return LTXParameters(**self.defaults.model_dump(), seed=0)

    def check(self, parameters: LTXParameters) -> None:
        """Check what no single field can check. Raises InvalidRequest."""
        fixed = self.defaults.num_inference_steps
        if self.defaults.timesteps is not None and parameters.num_inference_steps != fixed:
            raise InvalidRequest(
                f"num_inference_steps must be {fixed}: {self.id} is distilled for that many",
                param="num_inference_steps",
            )
