"""All stages in one process: the same mathematics without a job run, for evaluation, benchmarks and offline use."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from pipelines.catalogue import ModelCard
from pipelines.families import load_stage, place
from pipelines.requests import Parameters
from pipelines.stages import Stage


class LocalPipeline:
    """A model whose stages load when first used."""

    def __init__(self, card: ModelCard, *, gpu: bool = True, threads: int | None = None) -> None:
        self.card = card
        self.placement = place(card, gpu=gpu, threads=threads)

    @cached_property
    def text(self) -> Any:
        return self._load(Stage.TEXT_ENCODE)

    @cached_property
    def image(self) -> Any:
        return self._load(Stage.IMAGE_ENCODE)

    @cached_property
    def denoiser(self) -> Any:
        return self._load(Stage.DENOISE)

    @cached_property
    def decoder(self) -> Any:
        return self._load(Stage.DECODE)

    def generate(
        self,
        prompt: str,
        parameters: Parameters,
        image: Image | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Generate one video, [F, 3, H, W] float32 in [0, 1]."""
        run = self.denoiser.begin(parameters, *self.condition(prompt, parameters, image))
        while run.step_index < run.num_steps:
            run.step()
            if on_step is not None:
                on_step(run.step_index, run.num_steps)
        return self.decode(run.result(), parameters)

    def condition(self, prompt: str, parameters: Parameters, image: Image | None) -> tuple[Any, Any]:
        """The denoiser's inputs: text and image conditioning, None for what the family or request lacks."""
        text = self.text.encode(prompt, parameters) if Stage.TEXT_ENCODE in self.card.STAGES else None
        return text, None if image is None else self.image.encode(image, parameters)

    def decode(self, final: Any, parameters: Parameters) -> Tensor:
        """Decode a whole video from its latents, [F, 3, H, W] float32 in [0, 1]."""
        return torch.cat(list(self.decoder.chunks(final, parameters)))

    def _load(self, stage: Stage) -> Any:
        return load_stage(stage, self.card, self.placement)
