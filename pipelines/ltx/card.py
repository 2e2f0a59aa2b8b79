"""The request fields, parameters and card of LTX-Video. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self, cast

from pydantic import Field, model_validator

from pipelines.card import CheckpointCard, Component, Defaults, Parameters
from pipelines.errors import InvalidRequest
from pipelines.fit import Fit, PictureFields
from pipelines.ltx.guidance_settings import Guidance, GuidanceSettings
from pipelines.ltx.schedule import Schedule, noise_levels
from pipelines.stages import Stage
from pipelines.strict import Finite, StrictModel

if TYPE_CHECKING:
    from pipelines.weights.network import Network


class LTXFields(PictureFields):
    """The request fields that only this family supports, and those about the given picture."""

    negative_prompt: str | None = None
    guidance_scale: Annotated[Finite, Field(ge=0, le=100)] | None = None
    guidance_rescale: Annotated[Finite, Field(ge=0, le=1)] | None = None
    stg_scale: Annotated[Finite, Field(ge=0, le=100)] | None = None
    """Spatio-temporal guidance: it makes motion more coherent, for one more forward pass a step; 0 is off."""


class PictureSettings(StrictModel):
    """What is done to a given picture, on a card and in a video's parameters.

    The makers soften it, so that the video moves away from it; diffusers does not.
    """

    image_blur: bool = False
    """Whether it is blurred (Gaussian, sigma 1) after it has its size."""
    image_crf: Annotated[int, Field(ge=0, le=51)] | None = None
    """The H.264 quality with which it is compressed after that: 29 for the makers."""
    image_cond_noise_scale: float = 0.0
    """The noise that each step lays over its latents, times the square of the step's noise level.

    Only releases with causal positions have it.
    """


class LTXDefaults(GuidanceSettings, PictureSettings, Defaults):
    """The values of fields that a request does not set or cannot set.

    What the releases differ in and what distorts where it is wrong has no default: `schedule`, `causal_positions` and
    `t5_attends_to_padding`.
    """

    schedule: Schedule
    causal_positions: bool
    """Whether the first frame stands alone in time, as the releases from 0.9.5 on are trained.

    They also take a given picture as a condition per token, as diffusers' `LTXConditionPipeline`, and the releases
    before as its `LTXImageToVideoPipeline`.
    """
    stochastic_sampling: bool = False
    """Whether each step removes all noise and adds fresh noise, as 0.9.6 distilled is trained."""
    t5_attends_to_padding: bool
    """Whether T5 sees the padding after a prompt.

    It does in diffusers' `LTXPipeline`, the reference up to 0.9.1, and does not in its `LTXConditionPipeline` and in
    the makers' own code.
    """
    fit: Fit = "cover"
    negative_prompt: str = ""
    decode_timestep: float = 0.0
    decode_noise_scale: float | None = None
    max_sequence_length: int = 128
    timesteps: tuple[float, ...] | None = None
    """A distilled model's own schedule, in descending order from 1000. It fixes num_inference_steps."""
    shorter_timesteps: tuple[tuple[float, ...], ...] = ()
    """Parts of `timesteps` with which the model works too. A request chooses one by its num_inference_steps."""

    @model_validator(mode="after")
    def _schedule_fixes_steps(self) -> Self:
        if self.timesteps is not None and len(self.timesteps) != self.num_inference_steps:
            raise ValueError("num_inference_steps must be the length of timesteps")
        for shorter in self.shorter_timesteps:
            if unknown := sorted(set(shorter) - set(self.timesteps or ())):
                raise ValueError(f"shorter_timesteps has {unknown[0]:g}, which is not one of timesteps")
        for each in self._all_timesteps():
            if each[:1] != (1000.0,) or each[-1] <= 0 or list(each) != sorted(set(each), reverse=True):
                raise ValueError(
                    "timesteps must descend from 1000, and none may be 0: after the last one no noise is left"
                )
        if len(self.schedules()) < len(self._all_timesteps()):
            raise ValueError("shorter_timesteps must differ in length, by which a request chooses one")
        return self

    @model_validator(mode="after")
    def _lists_know_the_levels(self) -> Self:
        if self.guidance_timesteps is not None and self.schedule == "uniform" and self.timesteps is None:
            raise ValueError("guidance_timesteps needs noise levels that no scheduler shifts: not schedule: uniform")
        return self

    @model_validator(mode="after")
    def _condition_can_be_noised(self) -> Self:
        if self.image_cond_noise_scale < 0:
            raise ValueError("image_cond_noise_scale must not be negative; 0 is off")
        if self.image_cond_noise_scale and not self.causal_positions:
            raise ValueError("image_cond_noise_scale needs causal_positions")
        return self

    def _all_timesteps(self) -> list[tuple[float, ...]]:
        return [*self.shorter_timesteps, *((self.timesteps,) if self.timesteps is not None else ())]

    def schedules(self) -> dict[int, tuple[float, ...]]:
        """The possible values of `timesteps` by their length; empty if any number of steps is possible."""
        return {len(each): each for each in self._all_timesteps()}


class LTXParameters(GuidanceSettings, PictureSettings, Parameters):
    """The effective parameters of one video."""

    family: Literal["ltx"] = "ltx"
    # Without these, a job's row is of a Kinoray that knew only these values.
    schedule: Schedule = "uniform"
    causal_positions: bool = False
    stochastic_sampling: bool = False
    t5_attends_to_padding: bool = True
    fit: Fit = "stretch"
    negative_prompt: str
    decode_timestep: float
    decode_noise_scale: float | None
    max_sequence_length: int
    timesteps: tuple[float, ...] | None

    @property
    def levels(self) -> list[float]:
        """The noise level before each step, before any shift by the scheduler."""
        if self.timesteps is not None:
            return [timestep / 1000 for timestep in self.timesteps]
        return noise_levels(self.schedule, self.num_inference_steps)

    @property
    def guidance(self) -> list[Guidance]:
        """The guidance of each step."""
        return [self.guidance_at(level) for level in self.levels]

    @property
    def forward_passes(self) -> int:
        """The transformer's, over all steps."""
        return sum(len(each.passes) for each in self.guidance)


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

    @property
    def allowed_num_inference_steps(self) -> tuple[int, ...]:
        """The lengths of a distilled model's schedules, ascending; empty if any number of steps is possible."""
        return tuple(sorted(self.defaults.schedules()))

    def default_parameters(self) -> LTXParameters:
        """The parameters of an empty request; the stages warm up with them."""
        return LTXParameters(**self.values({}), seed=0)

    def values(self, said: Mapping[str, object]) -> dict[str, object]:
        """The values of a video's parameters, with the schedule that has the wanted number of steps."""
        values = super().values(said)
        del values["shorter_timesteps"]
        if (schedule := self.defaults.schedules().get(cast("int", values["num_inference_steps"]))) is not None:
            values["timesteps"] = schedule
        return values

    def check(self, parameters: LTXParameters) -> None:
        """Check what no single field can check. Raises InvalidRequest."""
        steps, allowed = parameters.num_inference_steps, self.allowed_num_inference_steps
        if allowed and steps not in allowed:
            numbers = " or ".join(map(str, allowed))
            raise InvalidRequest(
                f"num_inference_steps must be {numbers}: {self.id} is distilled for these schedules; it is {steps}",
                param="num_inference_steps",
            )
        if not parameters.perturbed_blocks and any(each.stg_scale > 0 for each in parameters.guidance):
            raise InvalidRequest(
                f"stg_scale must be 0: {self.id} has no blocks for spatio-temporal guidance", param="stg_scale"
            )
