"""Train the temporal autoencoder of svd-tiny: 8x in space, 8 latent channels, a decoder that sees neighbouring frames.

Pictures first: most of the network is spatial, and a picture costs a ninth of a clip. Then clips of several lengths,
because a video may be decoded in chunks. Last, noise on the latents, which are a denoiser's and not an encoder's later.
"""

from __future__ import annotations

import logging
import random
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKLTemporalDecoder
from torch import Tensor

from training.optimization import Optimization, flat_then_cosine
from training.psnr import psnr
from training.svd.scenes import BUCKETS, render_pushed, training_scene

log = logging.getLogger(__name__)

PICTURE_STEPS, CLIP_STEPS = 1300, 900
LEARNING_RATE = 3e-3
# (num_frames, height, width, batch, weight)
PICTURES = ((1, 64, 64, 16, 0.86), (1, 64, 96, 10, 0.07), (1, 96, 64, 10, 0.07))
CLIPS = ((9, 64, 64, 2, 0.5), (3, 64, 64, 6, 0.3), (1, 64, 64, 16, 0.1), (5, 64, 96, 2, 0.05), (5, 96, 64, 2, 0.05))
KL_WEIGHT, LATENT_NOISE = 1e-4, 0.1


def build_vae() -> AutoencoderKLTemporalDecoder:
    """Stable Video Diffusion's autoencoder with one layer per block (1.1 M parameters)."""
    return AutoencoderKLTemporalDecoder(
        in_channels=3, out_channels=3, down_block_types=("DownEncoderBlock2D",) * 4,
        block_out_channels=(32, 32, 64, 64), layers_per_block=1, latent_channels=8, sample_size=64,
    )  # fmt: skip


def sample_clips(rng: random.Random, num_frames: int, height: int, width: int, batch: int) -> Tensor:
    """Clips whose shapes move as far as any bucket says, [B, F, 3, H, W] in [-1, 1]."""
    scenes = [training_scene(rng) for _ in range(batch)]
    return render_pushed(scenes, [rng.uniform(*BUCKETS) for _ in scenes], num_frames, height, width)


@torch.no_grad()
def reconstruct(vae: AutoencoderKLTemporalDecoder, clips: Tensor) -> Tensor:
    """Encode and decode without sampling; [B, F, 3, H, W] in and out."""
    latents = vae.encode(clips.flatten(0, 1)).latent_dist.mode()
    return vae.decode(latents, num_frames=clips.shape[1]).sample.view_as(clips)


def train_vae(out: Path, seed: int = 0) -> None:
    """Train from scratch and save to `out` in diffusers' folder layout."""
    torch.manual_seed(seed)
    torch.set_flush_denormal(True)
    rng = random.Random(seed)
    vae = build_vae()
    total, started = PICTURE_STEPS + CLIP_STEPS, time.monotonic()
    optimization = Optimization([vae], LEARNING_RATE, flat_then_cosine(total))
    validation = sample_clips(random.Random("validation"), 9, 64, 64, 12)
    for step in range(total):
        sizes = PICTURES if step < PICTURE_STEPS else CLIPS
        num_frames, height, width, batch, _ = rng.choices(sizes, [size[4] for size in sizes])[0]
        clips = sample_clips(rng, num_frames, height, width, batch)
        loss = _loss(vae, clips, noised=step > 0.6 * total)
        optimization.step(loss)
        if (step + 1) % 100 == 0 or step + 1 == total:
            quality = psnr(reconstruct(vae, validation), validation)
            log.info(
                "vae step %d of %d, %.0f s: loss %.4f, PSNR %.2f dB (worst clip %.2f)",
                step + 1, total, time.monotonic() - started, loss.item(), quality.mean(), quality.min(),
            )  # fmt: skip
    clips = sample_clips(rng, 9, 64, 64, 40)
    with torch.no_grad():
        latents = vae.encode(clips.flatten(0, 1)).latent_dist.mode()
    # The noise schedule is made for latents of unit power.
    vae.register_to_config(scaling_factor=round(1 / latents.square().mean().sqrt().item(), 5))
    vae.save_pretrained(out)


def _loss(vae: AutoencoderKLTemporalDecoder, clips: Tensor, *, noised: bool) -> Tensor:
    posterior = vae.encode(clips.flatten(0, 1)).latent_dist
    latents = posterior.mean + posterior.std * torch.randn_like(posterior.mean)
    if noised:
        share = torch.rand(len(latents), 1, 1, 1) * LATENT_NOISE
        latents = latents + share * torch.randn_like(latents) * latents.detach().std()
    error = vae.decode(latents, num_frames=clips.shape[1]).sample.view_as(clips) - clips
    divergence = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
    return (error.square() + 0.3 * error.abs()).mean() + KL_WEIGHT * divergence
