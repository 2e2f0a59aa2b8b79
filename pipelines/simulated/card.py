"""The parameters and card of a simulated model."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from pipelines.card import Component, Defaults, ModelCard, Parameters
from pipelines.simulated.timings import Timings, measured
from pipelines.stages import Stage


class SimulatedParameters(Parameters):
    """The effective parameters of one video."""

    family: Literal["simulated"] = "simulated"

    @property
    def guided(self) -> bool:
        """Always false: a step takes the time that the card gives."""
        return False


class SimulatedCard(ModelCard):
    """A model that computes nothing and only takes time."""

    STAGES: ClassVar[dict[Stage, tuple[Component, ...]]] = {Stage.TEXT_ENCODE: (), Stage.DENOISE: (), Stage.DECODE: ()}
    TAKES_PROMPT: ClassVar[bool] = True
    NEEDS_IMAGE: ClassVar[bool] = False

    family: Literal["simulated"]
    defaults: Defaults
    timings: Timings
    prompt_shape: tuple[int, int] = (128, 4096)
    """The number of tokens and the width of a prompt's embedding; T5-XXL's by default."""
    latent_channels: int = Field(default=128, ge=1)

    @field_validator("timings", mode="before")
    @classmethod
    def _measured(cls, value: Any) -> Any:
        """Use a real model's measured timings if the card says `{gpu: NAME, model: ID}`."""
        if isinstance(value, dict) and value.keys() == {"gpu", "model"}:
            return measured(**value)
        return value

    def default_parameters(self) -> SimulatedParameters:
        """The parameters of an empty request."""
        return SimulatedParameters(**self.defaults.model_dump(), seed=0)

    def shared_by(self, stage: Stage) -> object:
        return (self.id, stage)
