"""A simulated model as a request and a card know it."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from pipelines.card import CommonCard, CommonDefaults, CommonParameters, Component, Leg, StrictModel

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Pace(StrictModel):
    """How long something takes: a constant, and what grows with the video's size."""

    fixed_s: Seconds = 0.0
    per_megapixel_s: Seconds = 0.0
    """For each million pixels of all frames together."""

    def seconds(self, megapixels: float) -> float:
        return self.fixed_s + self.per_megapixel_s * megapixels


class Timings(StrictModel):
    """How long each leg takes."""

    load_s: Seconds = 0.0
    """Of each leg, before its replica is ready."""
    text: Pace
    step: Pace
    """Of one denoising step."""
    decode: Pace


class SimulatedParameters(CommonParameters):
    """The effective parameters of one video."""

    family: Literal["simulated"] = "simulated"

    @property
    def guided(self) -> bool:
        """Never: a step takes what the card says."""
        return False


class SimulatedCard(CommonCard):
    """A model that only takes its time."""

    LEGS: ClassVar[dict[Leg, tuple[Component, ...]]] = {"text": (), "denoise": (), "decode": ()}
    TAKES_PROMPT: ClassVar[bool] = True
    NEEDS_IMAGE: ClassVar[bool] = False

    family: Literal["simulated"]
    defaults: CommonDefaults
    timings: Timings
    prompt_shape: tuple[int, int] = (128, 4096)
    """Tokens and width of a prompt's embedding; T5-XXL's by default."""
    latent_channels: int = Field(default=128, ge=1)

    def default_parameters(self) -> SimulatedParameters:
        """What the model does when nothing is said."""
        return SimulatedParameters(**self.defaults.model_dump(), seed=0)

    def check(self, parameters: SimulatedParameters) -> None:
        """Nothing: it can do whatever its limits allow."""

    def shared_by(self, leg: Leg) -> object:
        return (self.id, leg)
