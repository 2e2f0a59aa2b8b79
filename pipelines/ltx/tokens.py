"""The tokens that a denoise begins with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pipelines.ltx.packing import pack


@dataclass(frozen=True, slots=True)
class Tokens:
    """Noise, and a given picture's latents in place of its first frames. S is the number of tokens."""

    latents: Tensor  # [1, S, C] float32, packed, of unit variance
    given: Tensor | None  # [1, S], 1 where latents are given; None where none are

    @classmethod
    def of(cls, noise: Tensor, first: Tensor | None, device: torch.device) -> Tokens:
        """Pack noise, [1, C, f, h, w], and given latents, [1, C, k, h, w] with k up to f, for a device."""
        if first is None:
            return cls(pack(noise).to(device), None)
        frames = first.shape[2]
        given = torch.zeros(1, 1, *noise.shape[2:])
        given[:, :, :frames] = 1.0
        latents = torch.cat([first, noise[:, :, frames:]], dim=2)
        return cls(pack(latents).to(device), pack(given).squeeze(-1).to(device))
