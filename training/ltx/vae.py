"""Train the video autoencoder of ltx-tiny: 16x in space, 2x in time, 32 latent channels.

The curriculum is image first: one-frame clips until positions and colours are found, then whole clips; without it the
decoder settles on the mean image. In the second half the latents are noised and the decoder is told how much, which is
what `decode_timestep` and `decode_noise_scale` mean at inference.
"""

from __future__ import annotations

import logging
import random
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKLLTXVideo
from torch import Tensor

from training.optimization import Optimization, flat_then_cosine
from training.psnr import psnr
from training.world import render, sample_scene

log = logging.getLogger(__name__)

IMAGE_STEPS, VIDEO_STEPS = 700, 3800
LEARNING_RATE = 3e-3
# (num_frames, height, width, batch, weight): mostly the default size, some others so that they work as well.
CLIP_SIZES = ((9, 64, 64, 8, 0.8), (9, 64, 96, 5, 0.07), (9, 96, 64, 5, 0.07), (17, 64, 64, 4, 0.06))


def build_vae() -> AutoencoderKLLTXVideo:
    """The LTX 0.9.5 autoencoder's blocks, one level deep, on 8x8 patches (4.4 M parameters)."""
    return AutoencoderKLLTXVideo(
        latent_channels=32,
        patch_size=8,
        block_out_channels=(64, 128),
        down_block_types=("LTXVideo095DownBlock3D",),
        downsample_type=("spatiotemporal",),
        layers_per_block=(1, 1),
        spatio_temporal_scaling=(True,),
        decoder_block_out_channels=(96,),
        decoder_layers_per_block=(1, 2),
        decoder_spatio_temporal_scaling=(True,),
        decoder_inject_noise=(False, False),
        upsample_residual=(True,),
        upsample_factor=(2,),
        timestep_conditioning=True,
    )


@torch.no_grad()
def reconstruct(vae: AutoencoderKLLTXVideo, clips: Tensor) -> Tensor:
    """Encode and decode without sampling."""
    latents = vae.encode(clips).latent_dist.mode()
    return vae.decode(latents, torch.zeros(len(clips))).sample


@torch.no_grad()
def sampled(vae: AutoencoderKLLTXVideo, clips: Tensor) -> Tensor:
    """Latents of clips, [B, C, f, h, w] of unit variance, drawn from the posterior as the pipeline draws them."""
    mean, std = (part.view(1, -1, 1, 1, 1) for part in (vae.latents_mean, vae.latents_std))
    latents: Tensor = (vae.encode(clips).latent_dist.sample() - mean) / std
    return latents


def train_vae(out: Path, seed: int = 0) -> None:
    """Train from scratch and save to `out` in diffusers' folder layout."""
    torch.manual_seed(seed)
    torch.set_flush_denormal(True)
    rng = random.Random(seed)
    vae = build_vae()
    total = IMAGE_STEPS + VIDEO_STEPS
    optimization = Optimization([vae], LEARNING_RATE, flat_then_cosine(total))
    validation = render([sample_scene(random.Random(f"validation {i}")) for i in range(24)], 9, 64, 64)
    started = time.monotonic()
    for step in range(total):
        if step < IMAGE_STEPS:
            num_frames, height, width, batch = 1, 64, 64, 32
        else:
            num_frames, height, width, batch = rng.choices([s[:4] for s in CLIP_SIZES], [s[4] for s in CLIP_SIZES])[0]
        clips = render([sample_scene(rng) for _ in range(batch)], num_frames, height, width)
        loss = _loss(vae, clips, noised=step > total / 2)
        optimization.step(loss)
        if (step + 1) % 100 == 0 or step + 1 == total:
            quality = psnr(reconstruct(vae, validation), validation)
            log.info(
                "vae step %d of %d, %.0f s: loss %.4f, PSNR %.2f dB (worst clip %.2f)",
                step + 1, total, time.monotonic() - started, loss.item(), quality.mean(), quality.min(),
            )  # fmt: skip
    _normalize(vae, rng)
    vae.save_pretrained(out)


def _loss(vae: AutoencoderKLLTXVideo, clips: Tensor, *, noised: bool) -> Tensor:
    posterior = vae.encode(clips).latent_dist
    latents = posterior.mean + posterior.std * torch.randn_like(posterior.mean)
    batch = len(clips)
    timestep = torch.rand(batch) * 0.1 * (torch.rand(batch) < 0.5) if noised else torch.zeros(batch)
    if noised:
        share = timestep.view(-1, 1, 1, 1, 1)
        latents = (1 - share) * latents + share * torch.randn_like(latents) * latents.detach().std()
    error = vae.decode(latents, timestep).sample - clips
    divergence = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
    return (error.square() + 0.3 * error.abs()).mean() + 1e-5 * divergence


@torch.no_grad()
def _normalize(vae: AutoencoderKLLTXVideo, rng: random.Random) -> None:
    """Write the latents' mean and deviation per channel, which the pipeline uses to reach unit variance."""
    clips = (render([sample_scene(rng) for _ in range(32)], 9, 64, 64) for _ in range(12))
    latents = torch.cat([vae.encode(batch).latent_dist.mode() for batch in clips])
    vae.latents_mean.copy_(latents.mean((0, 2, 3, 4)))
    vae.latents_std.copy_(latents.std((0, 2, 3, 4)).clamp(min=1e-3))
