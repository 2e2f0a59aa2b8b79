"""What the releases of LTX-Video do differently between two predictions of the transformer."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Sampler(Protocol):
    """How a given picture enters a denoise, and how a prediction moves the latents.

    A sampler belongs to one denoise. All random numbers come from the denoise's generator, in diffusers' order; the
    module of a sampler draws the first of them with `drawn`. S is the number of tokens.
    """

    def prepare(self, latents: Tensor, timestep: Tensor, generator: torch.Generator) -> Tensor:
        """The latents that a step shows the transformer."""

    def timesteps(self, timestep: Tensor, batch: int) -> Tensor:
        """What the transformer is told of the noise in each clip, [B] or [B, 1], or in each token, [B, S]."""

    def prediction(self, output: Tensor) -> Tensor:
        """The transformer's output, [B, S, C], in the dtype in which its passes are put together."""

    def advance(self, prediction: Tensor, timestep: Tensor, latents: Tensor, generator: torch.Generator) -> Tensor:
        """The latents after a step, [1, S, C] float32."""
