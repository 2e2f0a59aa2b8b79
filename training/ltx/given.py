"""What a training clip is given beside its prompt: its first frames, a later keyframe, or nothing.

The tokens are laid out as diffusers' `LTXConditionPipeline` lays them out: given first frames stand at their own place
at noise level 0; a keyframe is the latent of one picture, in tokens of its own before all others, at its frame's time.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKLLTXVideo
from torch import Tensor

from pipelines.card import Compression
from pipelines.ltx.packing import causal_positions, pack
from training.ltx.vae import sampled
from training.world import Scene, render

FIRST_FRAME, PREFIX = 0.3, 0.15
"""The shares of clips whose first frame is given, or several."""
KEYFRAME, LAST = 0.3, 0.4
"""The share of batches with a keyframe in every clip, and of keyframes that are the last frame."""
NOISE = 0.15
"""The scale of the noise on given tokens in half of the clips, times the noise level squared, as when sampling."""


@dataclass(frozen=True, slots=True)
class Keyframes:
    """One keyframe for each clip of a batch."""

    latents: Tensor  # [B, h*w, C] packed, normalised
    positions: Tensor  # [B, 3, h*w] seconds, pixels down and across


def noise_levels(batch: int) -> Tensor:
    """One noise level for each clip, [B]: logit-normal, and a share near 1, where half of all sampling steps are."""
    levels = torch.sigmoid(torch.randn(batch) * 1.2 + 0.3)
    return torch.where(torch.rand(batch) < 0.1, 1 - 0.05 * torch.rand(batch), levels)


def given_first(batch: int, frames: int, tokens: int) -> Tensor:
    """Which tokens of each clip are given as its first frames, [B, frames * tokens] bool."""
    choice = torch.rand(batch)
    several = torch.randint(2, max(frames, 3), (batch,))
    count = torch.where(choice < FIRST_FRAME, 1, torch.where(choice < FIRST_FRAME + PREFIX, several, 0))
    count = count.clamp(max=frames - 1)  # something has to be predicted
    frame_of_token = torch.arange(frames).repeat_interleave(tokens)
    return frame_of_token[None] < count[:, None]


def noised(clean: Tensor, level: Tensor) -> Tensor:
    """Given tokens as sampling presents them: with noise that fades as the clip's noise level does, or without."""
    scale = NOISE * (torch.rand(len(clean)) < 0.5) * level.square()
    return clean + scale[:, None, None] * torch.randn_like(clean)


def keyframes(
    vae: AutoencoderKLLTXVideo,
    rng: random.Random,
    scenes: list[Scene],
    size: tuple[int, int, int],
    compression: Compression,
    fps: int,
) -> Keyframes:
    """Draw a frame of each scene, not its first, and encode it as a picture.

    Args:
        size: of the clips in pixels: frames, height, width.
    """
    num_frames, height, width = size
    last = num_frames - 1
    index = torch.tensor([last if rng.random() < LAST else rng.randint(1, last) for _ in scenes])
    pictures = render(scenes, num_frames, height, width)[torch.arange(len(scenes)), :, index]  # [B, 3, H, W]
    latents = sampled(vae, pictures.unsqueeze(2))
    rows, columns = latents.shape[3:]
    positions = causal_positions((1, rows, columns), compression, fps).repeat(len(scenes), 1, 1)
    positions[:, 0] = index[:, None] / fps
    return Keyframes(pack(latents), positions)
