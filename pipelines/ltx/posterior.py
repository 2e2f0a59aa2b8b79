"""The latents of a given picture, drawn from the autoencoder's posterior."""

from __future__ import annotations

import torch
from torch import Tensor

from pipelines.ltx.outputs import ImageConditioning


def sample(image: ImageConditioning, generator: torch.Generator) -> Tensor:
    """Draw latents, [1, C, k, h, w] in the autoencoder's dtype, not normalised (diffusers
    `DiagonalGaussianDistribution.sample`)."""
    mean, logvar = image.moments.chunk(2, dim=1)
    deviation = torch.exp(0.5 * torch.clamp(logvar, -30.0, 20.0))
    return mean + deviation * torch.randn(mean.shape, generator=generator, dtype=mean.dtype)


def normalized(latents: Tensor, image: ImageConditioning) -> Tensor:
    """Latents of unit variance, computed in their own dtype."""
    mean, std = (part.view(1, -1, 1, 1, 1).to(latents.dtype) for part in (image.latents_mean, image.latents_std))
    return (latents - mean) / std
