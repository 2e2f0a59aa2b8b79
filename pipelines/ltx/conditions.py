"""The sampler of 0.9.5 and later, with the arithmetic of diffusers' `LTXConditionPipeline`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipelines.ltx import posterior
from pipelines.ltx.outputs import ImageConditioning
from pipelines.ltx.tokens import Tokens

if TYPE_CHECKING:
    from diffusers import FlowMatchEulerDiscreteScheduler

EPSILON = 1e-6  # how far two noise levels may be apart and still be the same one


def drawn(
    shape: tuple[int, ...], image: ImageConditioning | None, generator: torch.Generator, device: torch.device
) -> Tokens:
    """Draw the tokens of latents, (1, C, f, h, w): the noise first, then the posterior's sample in its own dtype."""
    noise = torch.randn(shape, generator=generator)
    if image is None:
        return Tokens.of(noise, None, device)
    return Tokens.of(noise, posterior.normalized(posterior.sample(image, generator), image).float(), device)


class ConditionSampler:
    """Each token has its own noise level: a condition of strength 1 has none, and a step leaves it as it is.

    What is given stands in place of the first latent frames. Conditions of other strengths and at other frames, which
    have tokens of their own before all others, are not here yet; `Tokens.given` can hold any strength.
    """

    def __init__(self, scheduler: FlowMatchEulerDiscreteScheduler, tokens: Tokens, noise_scale: float) -> None:
        """`noise_scale` is of the noise that each step lays over given tokens."""
        self.scheduler = scheduler
        self.initial, self.given = tokens.latents, tokens.given
        self.noise_scale = noise_scale

    def prepare(self, latents: Tensor, timestep: Tensor, generator: torch.Generator) -> Tensor:
        """The latents, with fresh noise over those given, which fades as the square of the noise level.

        It is laid over the given latents as they were in the beginning, so a resumed denoise draws these again.
        """
        if self.given is None or self.noise_scale <= 0:
            return latents
        noise = torch.randn(latents.shape, generator=generator).to(latents.device)
        noised = self.initial + self.noise_scale * noise * ((timestep / 1000.0) ** 2)
        return torch.where((self.given > 1.0 - EPSILON).unsqueeze(-1), noised, latents)

    def timesteps(self, timestep: Tensor, batch: int) -> Tensor:
        """The step's own, [B, 1]; with a picture [B, S], at most what a token's strength leaves."""
        expanded = timestep.expand(batch).unsqueeze(-1).float()
        return expanded if self.given is None else torch.min(expanded, (1 - self.given) * 1000.0)

    def prediction(self, output: Tensor) -> Tensor:
        """As it is: diffusers puts the passes together in the transformer's dtype, and so do the makers."""
        return output

    def advance(self, prediction: Tensor, timestep: Tensor, latents: Tensor, generator: torch.Generator) -> Tensor:
        """One step from each token's level to the next lower one of the schedule."""
        # The scheduler's steps per token count the levels down, except where it samples stochastically.
        velocity = prediction if self.scheduler.config.stochastic_sampling else -prediction
        levels = self.timesteps(timestep, batch=1)
        moved: Tensor = self.scheduler.step(
            velocity, timestep, latents, generator=generator, per_token_timesteps=levels, return_dict=False
        )[0]
        if self.given is None:
            return moved
        return torch.where((timestep / 1000 - EPSILON < (1.0 - self.given)).unsqueeze(-1), moved, latents)
