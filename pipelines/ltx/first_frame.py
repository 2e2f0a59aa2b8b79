"""The sampler of 0.9.0 and 0.9.1, with the arithmetic of diffusers' `LTXPipeline` and `LTXImageToVideoPipeline`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipelines.ltx import posterior
from pipelines.ltx.outputs import ImageConditioning
from pipelines.ltx.packing import pack, unpack
from pipelines.ltx.tokens import Tokens

if TYPE_CHECKING:
    from diffusers import FlowMatchEulerDiscreteScheduler


def drawn(
    shape: tuple[int, ...], image: ImageConditioning | None, generator: torch.Generator, device: torch.device
) -> Tokens:
    """Draw the tokens of latents, (1, C, f, h, w): the posterior's sample in float32 first, then the noise."""
    first = None if image is None else posterior.normalized(posterior.sample(image, generator).float(), image)
    return Tokens.of(torch.randn(shape, generator=generator), first, device)


class FirstFrameSampler:
    """A given picture is the first latent frame: it is clean from the beginning, and no step changes it."""

    def __init__(self, scheduler: FlowMatchEulerDiscreteScheduler, tokens: Tokens, grid: tuple[int, int, int]) -> None:
        """`grid` is the number of latent frames, rows and columns."""
        self.scheduler = scheduler
        self.given = tokens.given
        self.grid = grid

    def prepare(self, latents: Tensor, timestep: Tensor, generator: torch.Generator) -> Tensor:  # noqa: ARG002
        """The latents as they are."""
        return latents

    def timesteps(self, timestep: Tensor, batch: int) -> Tensor:
        """The step's own, [B]; with a picture [B, S], 0 on its tokens."""
        expanded = timestep.expand(batch)
        return expanded if self.given is None else expanded.unsqueeze(-1) * (1 - self.given)

    def prediction(self, output: Tensor) -> Tensor:
        """In float32."""
        return output.float()

    def advance(self, prediction: Tensor, timestep: Tensor, latents: Tensor, generator: torch.Generator) -> Tensor:
        """One Euler step of all frames but a given one."""

        def moved(prediction: Tensor, latents: Tensor) -> Tensor:
            step: tuple[Tensor] = self.scheduler.step(
                prediction, timestep, latents, generator=generator, return_dict=False
            )
            return step[0]

        if self.given is None:
            return moved(prediction, latents)
        prediction, latents = unpack(prediction, *self.grid), unpack(latents, *self.grid)
        return pack(torch.cat([latents[:, :, :1], moved(prediction[:, :, 1:], latents[:, :, 1:])], dim=2))
