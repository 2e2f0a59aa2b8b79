"""Peak signal-to-noise ratio, the measure of every autoencoder and first frame here."""

from __future__ import annotations

from torch import Tensor


def psnr(decoded: Tensor, reference: Tensor) -> Tensor:
    """In dB, of each item of a batch: [B, ...] in [-1, 1], both. Returns [B]."""
    error = ((decoded.clamp(-1, 1) - reference) / 2).square().flatten(1).mean(1)
    return -10 * error.log10()
