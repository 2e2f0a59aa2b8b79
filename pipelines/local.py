"""All stages in one process: the same mathematics without a job run, for evaluation, benchmarks and offline use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from PIL.Image import Image
from torch import Tensor

from pipelines.card import ModelCard, Parameters
from pipelines.families import graph_of, stages_of
from pipelines.frames import checked, last_frame, pixels
from pipelines.protocols import DecodeStage, DenoiseInputs, DenoiseStage, ImageStage, Resources, StageOutput, TextStage
from pipelines.stages import Stage

if TYPE_CHECKING:
    from pipelines.families import Conditioning
    from pipelines.protocols import Pixels


class LocalPipeline:
    """A model whose stages load when first used."""

    def __init__(self, card: ModelCard, *, gpu: bool = True, threads: int | None = None) -> None:
        self.card = card
        self.resources = Resources(gpu, threads)

    @cached_property
    def text(self) -> TextStage[Parameters, Conditioning]:
        load = stages_of(self.card).text
        assert load is not None, f"{self.card.family} has no text encoder"
        return load(self.card, self.resources)

    @cached_property
    def image(self) -> ImageStage[Parameters, Conditioning]:
        load = stages_of(self.card).image
        assert load is not None, f"{self.card.family} has no image encoder"
        return load(self.card, self.resources)

    @cached_property
    def denoiser(self) -> DenoiseStage[Parameters, Conditioning, Conditioning, StageOutput, StageOutput]:
        return stages_of(self.card).denoise(self.card, self.resources)

    @cached_property
    def decoder(self) -> DecodeStage[Parameters, StageOutput]:
        return stages_of(self.card).decode(self.card, self.resources)

    def generate(
        self,
        prompt: str,
        parameters: Parameters,
        image: Image | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Generate one video without its sound, [F, 3, H, W] float32 in [0, 1]: run every node of its graph in turn.

        `on_step` is told the steps done and their number, anew for each denoise.
        """
        conditioning: dict[str | None, Conditioning] = {None: None}
        latents: dict[str, StageOutput] = {}
        pictures: dict[str | None, Image | None] = {None: image}
        video = None
        for node in graph_of(self.card, parameters, image is not None):
            match node.stage:
                case Stage.TEXT_ENCODE:
                    conditioning[node.name] = self.text.encode(prompt, node.parameters)
                case Stage.IMAGE_ENCODE:
                    picture = pictures[node.frame]
                    assert picture is not None, "the job has no image"
                    conditioning[node.name] = self.image.encode(picture, node.parameters)
                case Stage.DENOISE:
                    earlier = latents[node.latents[0]] if node.latents else None
                    inputs = DenoiseInputs(conditioning[node.text], conditioning[node.image], earlier)
                    latents[node.name] = self.denoise(node.parameters, inputs, on_step)
                case Stage.DECODE:
                    video = self.decode([latents[name] for name in node.latents], node.parameters)
                    if node.last_frame:
                        pictures[node.name] = last_frame([video]).image()
        assert video is not None, "a graph ends with a decode"
        return video

    def denoise(
        self,
        parameters: Parameters,
        inputs: DenoiseInputs[Conditioning, Conditioning, StageOutput],
        on_step: Callable[[int, int], None] | None = None,
    ) -> StageOutput:
        """Run one denoise from noise to latents."""
        run = self.denoiser.begin(parameters, inputs)
        while run.step_index < run.num_steps:
            run.step()
            if on_step is not None:
                on_step(run.step_index, run.num_steps)
        return run.result()

    def condition(
        self, prompt: str, parameters: Parameters, image: Image | None
    ) -> DenoiseInputs[Conditioning, Conditioning, StageOutput]:
        """The inputs of the first denoise: text and image conditioning, None for what the family or request lacks."""
        text = self.text.encode(prompt, parameters) if Stage.TEXT_ENCODE in self.card.STAGES else None
        return DenoiseInputs(text, None if image is None else self.image.encode(image, parameters))

    def decode(self, latents: Sequence[StageOutput], parameters: Parameters) -> Tensor:
        """Decode a whole video from its latents, [F, 3, H, W] float32 in [0, 1]."""
        return torch.cat([_tensor(chunk) for chunk in pixels(self.decoder.chunks(latents, parameters))])


def _tensor(chunk: Pixels) -> Tensor:
    chunk = checked(chunk)
    return chunk if isinstance(chunk, Tensor) else torch.from_numpy(chunk).permute(0, 3, 1, 2) / 255
