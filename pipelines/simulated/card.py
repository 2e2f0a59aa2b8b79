"""A simulated model as a request and a card know it."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from pipelines.card import CommonCard, CommonDefaults, CommonParameters, Component
from pipelines.simulated.timings import Timings, measured
from pipelines.stages import Stage


class SimulatedParameters(CommonParameters):
    """The effective parameters of one video."""

    family: Literal["simulated"] = "simulated"

    @property
    def guided(self) -> bool:
        """Never: a step takes what the card says."""
        return False


class SimulatedCard(CommonCard):
    """A model that only takes its time."""

    STAGES: ClassVar[dict[Stage, tuple[Component, ...]]] = {Stage.TEXT_ENCODE: (), Stage.DENOISE: (), Stage.DECODE: ()}
    TAKES_PROMPT: ClassVar[bool] = True
    NEEDS_IMAGE: ClassVar[bool] = False

    family: Literal["simulated"]
    defaults: CommonDefaults
    timings: Timings
    prompt_shape: tuple[int, int] = (128, 4096)
    """Tokens and width of a prompt's embedding; T5-XXL's by default."""
    latent_channels: int = Field(default=128, ge=1)

    @field_validator("timings", mode="before")
    @classmethod
    def _measured(cls, value: Any) -> Any:
        """Those of a real model, where the card says `{gpu: NAME, model: ID}`."""
        if isinstance(value, dict) and value.keys() == {"gpu", "model"}:
            return measured(**value)
        return value

    def default_parameters(self) -> SimulatedParameters:
        """What the model does when nothing is said."""
        return SimulatedParameters(**self.defaults.model_dump(), seed=0)

    def check(self, parameters: SimulatedParameters) -> None:
        """Nothing: it can do whatever its limits allow."""

    def shared_by(self, stage: Stage) -> object:
        return (self.id, stage)
