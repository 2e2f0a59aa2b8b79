"""The sampler of 0.9.0 and 0.9.1, with the arithmetic of diffusers' `LTXPipeline` and `LTXImageToVideoPipeline`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipelines.ltx import posterior
from pipelines.ltx.outputs import ImageConditioning
from pipelines.ltx.packing import pack, unpack

if TYPE_CHECKING:
    from diffusers import FlowMatchEulerDiscreteScheduler


class FirstFrameSampler:
    """A given picture is the first latent frame: it is clean from the beginning, and no step changes it."""

    def __init__(
        self,
        scheduler: FlowMatchEulerDiscreteScheduler,
        shape: tuple[int, ...],
        image: ImageConditioning | None,
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        """Draw the initial latents: the posterior's sample first, then the noise.

        Args:
            shape: of the latents, (1, C, f, h, w).
        """
        self.scheduler = scheduler
        self.grid = shape[2], shape[3], shape[4]
        if image is None:
            latents, given = torch.randn(shape, generator=generator), None
        else:
            first = posterior.normalized(posterior.sample(image, generator).float(), image)
            noise = torch.randn(shape, generator=generator)
            given = torch.zeros(1, 1, *self.grid)
            given[:, :, 0] = 1.0
            latents = first * given + noise * (1 - given)
        self.initial = pack(latents).to(device)
        self.given = None if given is None else pack(given).squeeze(-1).to(device)  # [1, S], 1 on the given frame

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
            result: Tensor = self.scheduler.step(prediction, timestep, latents, generator=generator, return_dict=False)[
                0
            ]
            return result

        if self.given is None:
            return moved(prediction, latents)
        prediction, latents = unpack(prediction, *self.grid), unpack(latents, *self.grid)
        return pack(torch.cat([latents[:, :, :1], moved(prediction[:, :, 1:], latents[:, :, 1:])], dim=2))
