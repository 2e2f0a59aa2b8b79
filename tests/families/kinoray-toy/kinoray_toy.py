"""A family of its own package: its videos fade from black to a color that it makes of the prompt."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from pipelines.card import Component, Defaults, ModelCard, Parameters
from pipelines.protocols import DenoiseInputs, Family, Resources, Stages
from pipelines.stages import Stage


class ToyFields(BaseModel):
    brightness: Annotated[float, Field(ge=0, le=1)] | None = None


class ToyDefaults(Defaults):
    brightness: float = 1.0


class ToyParameters(Parameters):
    family: Literal["toy"] = "toy"
    brightness: float
    guided: ClassVar[bool] = False  # no classifier-free guidance, ever


class ToyCard(ModelCard):
    STAGES: ClassVar[dict[Stage, tuple[Component, ...]]] = {Stage.TEXT_ENCODE: (), Stage.DENOISE: (), Stage.DECODE: ()}
    TAKES_PROMPT: ClassVar[bool] = True
    NEEDS_IMAGE: ClassVar[bool] = False

    family: Literal["toy"]
    defaults: ToyDefaults

    def default_parameters(self) -> ToyParameters:
        return ToyParameters(**self.defaults.model_dump(), seed=0)

    def shared_by(self, stage: Stage) -> object:
        return self.id, stage


@dataclass(frozen=True, slots=True)
class Color:
    rgb: NDArray[np.float32]  # [3] in [0, 1]


@dataclass(frozen=True, slots=True)
class State:
    latents: NDArray[np.float32]  # [F, 3]
    step: int  # the next to run


@dataclass(frozen=True, slots=True)
class Latents:
    latents: NDArray[np.float32]  # [F, 3] in [0, 1]: each frame's color


class OnTheCpu:
    def synchronize(self) -> None: ...

    def result_metadata(self) -> dict[str, str]:
        return {"device": "cpu", "dtype": "float32", "attention": "none"}


class ToyStage:
    placement = OnTheCpu()

    def __init__(self, card: ModelCard, resources: Resources) -> None: ...

    def warm_up(self) -> None: ...


class TextEncoder(ToyStage):
    def truncates(self, prompt: str, parameters: Parameters) -> bool:  # noqa: ARG002
        return False

    def encode(self, prompt: str, parameters: Parameters) -> Color:  # noqa: ARG002
        return Color(np.random.default_rng(crc32(prompt.encode())).random(3, np.float32))


class DenoiseRun:
    def __init__(self, parameters: Parameters, target: NDArray[np.float32], state: State | None) -> None:
        noise = np.random.default_rng(parameters.seed).random(target.shape, np.float32)
        self.num_steps, self.target = parameters.num_inference_steps, target  # [F, 3]
        self.state = state or State(noise, 0)

    @property
    def step_index(self) -> int:
        return self.state.step

    def step(self) -> None:
        rest = np.float32(self.num_steps - self.state.step)
        self.state = State(self.state.latents + (self.target - self.state.latents) / rest, self.state.step + 1)

    def result(self) -> Latents:
        return Latents(self.state.latents)


class Denoiser(ToyStage):
    def begin(
        self, parameters: ToyParameters, inputs: DenoiseInputs[Color, Any, Latents], state: State | None = None
    ) -> DenoiseRun:
        time = np.linspace(0, parameters.brightness, parameters.num_frames, dtype=np.float32)
        return DenoiseRun(parameters, time[:, None] * inputs.text.rgb, state)


def frames(latents: Sequence[Latents], parameters: Parameters) -> Iterator[NDArray[np.uint8]]:
    for each in latents:
        colors = (each.latents.clip(0, 1) * 255).round().astype(np.uint8)
        yield colors[:, None, None].repeat(parameters.height, 1).repeat(parameters.width, 2)


class VideoDecoder(ToyStage):
    def chunks(self, latents: Sequence[Latents], parameters: Parameters) -> Iterator[NDArray[np.uint8]]:
        return frames(latents, parameters)


FAMILY = Family(
    name="toy",
    card=ToyCard,
    parameters=ToyParameters,
    fields=ToyFields,
    stages=lambda: Stages(text=TextEncoder, denoise=Denoiser, decode=VideoDecoder, state=State, latents=Latents),
    revision=lambda _: "toy-1",
)
