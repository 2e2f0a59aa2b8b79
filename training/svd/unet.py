"""Train svd-tiny's UNet and image encoder together, on the latents of a trained autoencoder.

Continuous noise levels with v-prediction, as `EulerDiscreteScheduler` undoes them: the network sees x / sqrt(s^2 + 1)
at time log(s) / 4 and says v, where x0 = x / (s^2 + 1) - v s / sqrt(s^2 + 1). A tenth of the clips lose their image,
which teaches classifier-free guidance. An average of the weights is saved.
"""

from __future__ import annotations

import logging
import math
import random
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLTemporalDecoder,
    EulerDiscreteScheduler,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
)
from torch import Tensor
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from training.judge import to_picture
from training.optimization import Optimization, cosine, in_bfloat16
from training.svd.scenes import BUCKETS, EXAMPLE, render_pictures, render_pushed, training_scene

log = logging.getLogger(__name__)

STEPS = 900
LEARNING_RATE = 2e-3
NUM_FRAMES = 9
# (height, width, clips, batch, weight)
POOLS = ((64, 64, 4000, 16, 0.9), (64, 96, 400, 10, 0.05), (96, 64, 400, 10, 0.05))
IMAGE_DROPOUT, EMA = 0.1, 0.998
MAX_NOISE_AUG, FPS = 0.1, (4, 12)
LOG_SIGMA_MEAN, LOG_SIGMA_STD = 0.5, 1.6
# Some noise levels are drawn from the sampler's whole range: the log-normal hardly reaches its ends.
WHOLE_RANGE = 0.2
SIGMA_MIN, SIGMA_MAX = 0.002, 700.0
CLIP_SIZE = 224


@dataclass(frozen=True, slots=True)
class Pool:
    """Encoded clips of one size; N clips, drawn from in batches."""

    batch: int

    pictures: Tensor  # [N, 3, H, W] float32 in [-1, 1]: what CLIP sees
    latents: Tensor  # [N, F, C, h, w] scaled to unit power
    image_latents: Tensor  # [N, C, h, w] of the noised pictures, not scaled
    buckets: Tensor  # [N]
    noise_aug: Tensor  # [N]


def build_unet() -> UNetSpatioTemporalConditionModel:
    """Stable Video Diffusion's UNet: two levels of 64 channels, one layer each (3.3 M parameters)."""
    return UNetSpatioTemporalConditionModel(
        sample_size=8, in_channels=16, out_channels=8, block_out_channels=(64, 64), layers_per_block=1,
        down_block_types=("CrossAttnDownBlockSpatioTemporal",) * 2, num_frames=NUM_FRAMES,
        up_block_types=("CrossAttnUpBlockSpatioTemporal",) * 2, cross_attention_dim=64, num_attention_heads=2,
        addition_time_embed_dim=32, projection_class_embeddings_input_dim=96,
    )  # fmt: skip


def build_image_encoder() -> CLIPVisionModelWithProjection:
    """CLIP's vision tower, two layers of 64 over 32x32 patches (0.3 M parameters)."""
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=64, projection_dim=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
            image_size=CLIP_SIZE, patch_size=32,
        )
    )  # fmt: skip


def build_scheduler() -> EulerDiscreteScheduler:
    """The schedule of every released Stable Video Diffusion model."""
    return EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", interpolation_type="linear",
        prediction_type="v_prediction", sigma_min=SIGMA_MIN, sigma_max=SIGMA_MAX, steps_offset=1,
        timestep_spacing="leading", timestep_type="continuous", use_karras_sigmas=True,
    )  # fmt: skip


def train_unet(vae_folder: Path, out: Path, seed: int = 0) -> None:
    """Train from scratch and save the whole pipeline to `out` in diffusers' folder layout."""
    torch.manual_seed(seed)
    torch.set_flush_denormal(True)
    rng = random.Random(seed)
    vae = AutoencoderKLTemporalDecoder.from_pretrained(vae_folder).eval().requires_grad_(False)
    unet, image_encoder = build_unet(), build_image_encoder()
    normalizer = CLIPImageProcessor(crop_size=CLIP_SIZE, size=CLIP_SIZE)
    pools = [_encode(vae, rng, *size[:4]) for size in POOLS]
    weights = [size[4] for size in POOLS]
    optimization = Optimization([unet, image_encoder], LEARNING_RATE, cosine(STEPS), average=EMA)
    started, total_loss = time.monotonic(), 0.0
    for step in range(STEPS):
        pool = rng.choices(pools, weights)[0]
        loss = _loss(unet, image_encoder, normalizer, pool)
        optimization.step(loss)
        total_loss += loss.item()
        if (step + 1) % 100 == 0:
            elapsed = time.monotonic() - started
            log.info("unet step %d of %d, %.0f s: loss %.4f", step + 1, STEPS, elapsed, total_loss / 100)
            total_loss = 0.0
        if (step + 1) % 300 == 0 or step + 1 == STEPS:
            with optimization.averaged():
                _save(out, vae, unet, image_encoder, normalizer)


def _loss(
    unet: UNetSpatioTemporalConditionModel,
    image_encoder: CLIPVisionModelWithProjection,
    normalizer: CLIPImageProcessor,
    pool: Pool,
) -> Tensor:
    """The mean square error of v over a batch of the pool."""
    index = torch.randint(0, len(pool.latents), (pool.batch,))
    kept = (torch.rand(pool.batch) >= IMAGE_DROPOUT).float()
    embeds = image_encoder(_clip_pixels(pool.pictures[index], normalizer)).image_embeds[:, None]  # [B, 1, D]
    clean = pool.latents[index]
    image_latents = (pool.image_latents[index] * kept[:, None, None, None])[:, None].expand_as(clean)
    log_sigma = _log_noise_levels(pool.batch)
    sigma = log_sigma.exp()[:, None, None, None, None]
    noised = clean + sigma * torch.randn_like(clean)
    fps = torch.randint(*FPS, (pool.batch,)).float()
    prediction = unet(
        torch.cat([noised / (sigma.square() + 1).sqrt(), image_latents], dim=2),
        log_sigma / 4,
        encoder_hidden_states=embeds * kept[:, None, None],
        added_time_ids=torch.stack([fps - 1, pool.buckets[index], pool.noise_aug[index]], dim=1),
        return_dict=False,
    )[0]
    target = (noised / (sigma.square() + 1) - clean) * (sigma.square() + 1).sqrt() / sigma
    return (prediction - target).square().mean()


def _log_noise_levels(batch: int) -> Tensor:
    """Log-normal, with a share uniform between the scheduler's ends; [B]."""
    low, high = (math.log(level) for level in (SIGMA_MIN, SIGMA_MAX))
    normal = torch.randn(batch) * LOG_SIGMA_STD + LOG_SIGMA_MEAN
    uniform = low + (high - low) * torch.rand(batch)
    return torch.where(torch.rand(batch) < WHOLE_RANGE, uniform, normal)


def _clip_pixels(pictures: Tensor, normalizer: CLIPImageProcessor) -> Tensor:
    """What the pipeline's image stage makes of pictures this small: no blur, only the resize. [B, 3, 224, 224]."""
    resized = torch.nn.functional.interpolate(pictures, (CLIP_SIZE, CLIP_SIZE), mode="bicubic", align_corners=True)
    mean, std = (torch.tensor(each)[:, None, None] for each in (normalizer.image_mean, normalizer.image_std))
    return ((resized + 1) / 2 - mean) / std


@torch.no_grad()
def _encode(
    vae: AutoencoderKLTemporalDecoder, rng: random.Random, height: int, width: int, clips: int, batch: int
) -> Pool:
    parts: list[tuple[Tensor, ...]] = []
    while sum(len(part[0]) for part in parts) < clips:
        scenes = [training_scene(rng) for _ in range(40)]
        buckets = [float(rng.randint(*BUCKETS)) for _ in scenes]
        frames = render_pushed(scenes, buckets, NUM_FRAMES, height, width)  # [B, F, 3, H, W]
        latents = vae.encode(frames.flatten(0, 1)).latent_dist.mode().unflatten(0, frames.shape[:2])
        noise_aug = torch.rand(len(scenes)) * MAX_NOISE_AUG
        pictures = frames[:, 0].clone()
        noised = pictures + noise_aug[:, None, None, None] * torch.randn_like(pictures)
        image_latents = vae.encode(noised).latent_dist.mode()
        parts.append((pictures, latents * vae.config.scaling_factor, image_latents, torch.tensor(buckets), noise_aug))
    log.info("encoded %d clips of %dx%d", clips, width, height)
    return Pool(batch, *(torch.cat(column) for column in zip(*parts, strict=True)))


def _save(
    out: Path,
    vae: AutoencoderKLTemporalDecoder,
    unet: UNetSpatioTemporalConditionModel,
    image_encoder: CLIPVisionModelWithProjection,
    normalizer: CLIPImageProcessor,
) -> None:
    """Save in bfloat16, which halves the files, with a picture to try; training goes on in float32."""
    halves = in_bfloat16(vae=vae, unet=unet, image_encoder=image_encoder)
    pipeline = StableVideoDiffusionPipeline(scheduler=build_scheduler(), feature_extractor=normalizer, **halves)
    pipeline.save_pretrained(out)
    to_picture(render_pictures([EXAMPLE], 256, 256)[0]).save(out / "example.png")
