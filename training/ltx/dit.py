"""Train ltx-tiny's text encoder and transformer together, on the latents of a trained autoencoder.

Flow matching with logit-normal noise levels. A quarter of the batch keeps its first latent frame clean, which teaches
image-to-video; a tenth loses its prompt, which teaches classifier-free guidance. An average of the weights is saved.
"""

from __future__ import annotations

import logging
import random
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKLLTXVideo, FlowMatchEulerDiscreteScheduler, LTXPipeline, LTXVideoTransformer3DModel
from torch import Tensor
from transformers import T5Config, T5EncoderModel, T5Tokenizer

from pipelines.catalogue import get_card
from pipelines.ltx.card import LTXCard
from pipelines.ltx.packing import pack
from training.ltx.tokenizer import build_tokenizer
from training.optimization import Optimization, cosine, in_bfloat16
from training.world import Scene, describe, render, sample_scene

log = logging.getLogger(__name__)

STEPS = 2800
LEARNING_RATE = 2e-3
# (num_frames, height, width, clips, batch, weight)
POOLS = (
    (9, 64, 64, 9000, 24, 0.88),
    (9, 64, 96, 800, 16, 0.05),
    (9, 96, 64, 800, 16, 0.05),
    (17, 64, 64, 400, 12, 0.02),
)
PROMPT_DROPOUT, IMAGE_SHARE, EMA = 0.1, 0.25, 0.998


@dataclass(frozen=True, slots=True)
class Pool:
    """Encoded clips of one size."""

    scenes: list[Scene]
    latents: Tensor  # [N, f*h*w, C] packed, normalised
    grid: tuple[int, int, int]  # f, h, w
    batch: int


def build_text_encoder(tokenizer: T5Tokenizer) -> T5EncoderModel:
    """T5 v1.1's encoder, two layers of 64 (0.1 M parameters)."""
    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer), d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4,
            feed_forward_proj="gated-gelu", dropout_rate=0.0,
        )
    )  # fmt: skip


def build_transformer(latent_channels: int) -> LTXVideoTransformer3DModel:
    """LTX-Video's transformer, five layers of 192 (3.3 M parameters)."""
    return LTXVideoTransformer3DModel(
        in_channels=latent_channels, out_channels=latent_channels, num_attention_heads=6, attention_head_dim=32,
        cross_attention_dim=192, num_layers=5, caption_channels=64,
    )  # fmt: skip


def train_dit(vae_folder: Path, out: Path, seed: int = 0) -> None:
    """Train from scratch and save the whole pipeline to `out` in diffusers' folder layout."""
    torch.manual_seed(seed)
    torch.set_flush_denormal(True)
    rng = random.Random(seed)
    card = get_card("ltx-tiny")
    assert isinstance(card, LTXCard)
    vae = AutoencoderKLLTXVideo.from_pretrained(vae_folder).eval().requires_grad_(False)
    tokenizer = build_tokenizer()
    text_encoder = build_text_encoder(tokenizer)
    transformer = build_transformer(vae.config.latent_channels)
    pools = [_encode(vae, rng, *size[:5]) for size in POOLS]
    weights = [size[5] for size in POOLS]
    rope = (
        card.compression.temporal / card.defaults.fps, card.compression.spatial, card.compression.spatial,
    )  # fmt: skip
    optimization = Optimization([transformer, text_encoder], LEARNING_RATE, cosine(STEPS), average=EMA)
    started, total_loss = time.monotonic(), 0.0
    for step in range(STEPS):
        pool = rng.choices(pools, weights)[0]
        index = torch.randint(0, len(pool.scenes), (pool.batch,))
        prompts = ["" if rng.random() < PROMPT_DROPOUT else describe(pool.scenes[i], rng) for i in index.tolist()]
        tokens = tokenizer(
            prompts,
            padding="max_length",
            max_length=card.defaults.max_sequence_length,
            truncation=True,
            return_tensors="pt",
        )
        embeds = text_encoder(tokens.input_ids)[0]
        clean = pool.latents[index]
        noise = torch.randn_like(clean)
        sigma = _noise_levels(pool)
        mixed = (1 - sigma[..., None]) * clean + sigma[..., None] * noise
        num_frames, height, width = pool.grid
        prediction = transformer(
            hidden_states=mixed, encoder_hidden_states=embeds, timestep=sigma * 1000,
            encoder_attention_mask=tokens.attention_mask, num_frames=num_frames, height=height, width=width,
            rope_interpolation_scale=rope, return_dict=False,
        )[0]  # fmt: skip
        noised = (sigma > 0).float()[..., None]  # a clean first frame is given, not predicted
        loss = ((prediction - (noise - clean)).square() * noised).mean() / noised.mean()
        optimization.step(loss)
        total_loss += loss.item()
        if (step + 1) % 100 == 0:
            elapsed = time.monotonic() - started
            log.info("dit step %d of %d, %.0f s: loss %.4f", step + 1, STEPS, elapsed, total_loss / 100)
            total_loss = 0.0
        if (step + 1) % 1000 == 0 or step + 1 == STEPS:
            with optimization.averaged():
                _save(out, vae, tokenizer, text_encoder, transformer)


def _noise_levels(pool: Pool) -> Tensor:
    """Sigma per token, [B, f*h*w]: one per clip, zero on the first frame of the image-to-video share."""
    num_frames, height, width = pool.grid
    per_clip = torch.sigmoid(torch.randn(pool.batch) * 1.2 + 0.3)
    sigma = per_clip[:, None].repeat(1, num_frames * height * width)
    given = torch.rand(pool.batch) < IMAGE_SHARE
    sigma[given, : height * width] = 0.0
    return sigma


@torch.no_grad()
def _encode(
    vae: AutoencoderKLLTXVideo, rng: random.Random, num_frames: int, height: int, width: int, clips: int, batch: int
) -> Pool:
    """Render clips and sample their latents, as image-to-video samples its first frame."""
    scenes: list[Scene] = []
    encoded = []
    while len(scenes) < clips:
        some = [sample_scene(rng) for _ in range(40)]
        encoded.append(vae.encode(render(some, num_frames, height, width)).latent_dist.sample())
        scenes += some
    latents = torch.cat(encoded)
    mean, std = (part.view(1, -1, 1, 1, 1) for part in (vae.latents_mean, vae.latents_std))
    frames, rows, columns = latents.shape[2:]
    log.info("encoded %d clips of %dx%d", len(scenes), width, height)
    return Pool(scenes, pack((latents - mean) / std).contiguous(), (frames, rows, columns), batch)


def _save(
    out: Path,
    vae: AutoencoderKLLTXVideo,
    tokenizer: T5Tokenizer,
    text_encoder: T5EncoderModel,
    transformer: LTXVideoTransformer3DModel,
) -> None:
    """Save in bfloat16, which halves the files; training goes on in float32."""
    halves = in_bfloat16(vae=vae, text_encoder=text_encoder, transformer=transformer)
    LTXPipeline(scheduler=FlowMatchEulerDiscreteScheduler(), tokenizer=tokenizer, **halves).save_pretrained(out)
