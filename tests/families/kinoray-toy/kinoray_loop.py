"""A family with a loop in its stage graph, and with sound: each segment of a video goes on from the frame before it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import numpy as np
from kinoray_toy import Color, DenoiseRun, Latents, State, TextEncoder, ToyStage, frames
from numpy.typing import NDArray
from PIL.Image import Image
from pydantic import BaseModel, Field

from pipelines.card import Component, Defaults, ModelCard, Parameters
from pipelines.errors import InvalidRequest
from pipelines.graph import Graph, Node, published
from pipelines.protocols import Audio, DenoiseInputs, Family, Stages
from pipelines.stages import Stage

RATE = 16000


class LoopFields(BaseModel):
    segments: Annotated[int, Field(ge=1, le=8)] | None = None
    step_s: Annotated[float, Field(ge=0, le=10)] | None = None
    """Seconds that a step takes."""


class LoopDefaults(Defaults):
    segments: int
    step_s: float = 0.0


class LoopParameters(Parameters):
    family: Literal["loop"] = "loop"
    segments: int
    step_s: float
    guided: ClassVar[bool] = False  # no classifier-free guidance, ever


class LoopCard(ModelCard):
    STAGES: ClassVar[dict[Stage, tuple[Component, ...]]] = {
        Stage.TEXT_ENCODE: (), Stage.IMAGE_ENCODE: (), Stage.DENOISE: (), Stage.DECODE: (),
    }  # fmt: skip
    TAKES_PROMPT: ClassVar[bool] = True
    NEEDS_IMAGE: ClassVar[bool] = False

    family: Literal["loop"]
    defaults: LoopDefaults

    def default_parameters(self) -> LoopParameters:
        return LoopParameters(**self.defaults.model_dump(), seed=0)

    def shared_by(self, stage: Stage) -> object:
        return self.id, stage


class ImageEncoder(ToyStage):
    def encode(self, image: Image, parameters: Parameters) -> Color:  # noqa: ARG002
        return Color((np.asarray(image, np.float32).mean((0, 1)) / 255).astype(np.float32))


class SlowRun(DenoiseRun):
    step_s = 0.0

    def step(self) -> None:
        time.sleep(self.step_s)
        super().step()


class Denoiser(ToyStage):
    def begin(
        self,
        parameters: LoopParameters,
        inputs: DenoiseInputs[Color, Color | None, Latents],
        state: State | None = None,
    ) -> DenoiseRun:
        begins = inputs.image.rgb if inputs.image else np.zeros(3, np.float32)
        at = np.linspace(0, 1, parameters.num_frames, dtype=np.float32)[:, None]
        run = SlowRun(parameters, begins * (1 - at) + inputs.text.rgb * at, state)
        run.step_s = parameters.step_s
        return run


class VideoDecoder(ToyStage):
    def chunks(self, latents: Sequence[Latents], parameters: Parameters) -> Iterator[NDArray[np.uint8] | Audio]:
        at = np.arange(round(RATE * parameters.seconds), dtype=np.float32) / RATE
        yield Audio((0.2 * np.sin(2 * np.pi * 440 * at)[None]).astype(np.float32), RATE)
        yield from frames(latents, parameters)


def check(card: LoopCard, parameters: LoopParameters) -> None:
    if parameters.num_frames % parameters.segments:
        raise InvalidRequest(f"num_frames must be a multiple of segments for {card.id}", param="segments")


def graph(card: LoopCard, parameters: LoopParameters, has_image: bool) -> Graph:  # noqa: ARG001
    """Denoise; then decode the last frame, encode it and denoise on from it, for every further segment."""
    nodes = [Node("text_encode", Stage.TEXT_ENCODE, parameters)]
    if has_image:
        nodes.append(Node("image_encode", Stage.IMAGE_ENCODE, parameters))
    segments: list[str] = []
    for index in range(1, parameters.segments + 1):
        frames = parameters.num_frames // parameters.segments
        own = parameters.model_copy(update={"num_frames": frames, "seed": parameters.seed + index})
        if segments:
            nodes.append(Node(f"decode.{index}", Stage.DECODE, own, latents=(segments[-1],), last_frame=True))
            nodes.append(Node(f"image_encode.{index}", Stage.IMAGE_ENCODE, own, frame=nodes[-1].name))
        denoise = Node(f"denoise.{index}", Stage.DENOISE, own, text="text_encode")
        if nodes[-1].stage is Stage.IMAGE_ENCODE:
            denoise = replace(denoise, image=nodes[-1].name)
        nodes.append(denoise)
        segments.append(denoise.name)
    return published(*nodes, Node("decode", Stage.DECODE, parameters, latents=tuple(segments)))


STAGES: Stages[LoopCard, LoopParameters, Color, Color | None, State, Latents] = Stages(
    text=TextEncoder, image=ImageEncoder, denoise=Denoiser, decode=VideoDecoder, state=State, latents=Latents
)

FAMILY = Family(
    name="loop",
    card=LoopCard,
    parameters=LoopParameters,
    fields=LoopFields,
    check=check,
    graph=graph,
    stages=lambda: STAGES,
    revision=lambda _: "loop-1",
)
