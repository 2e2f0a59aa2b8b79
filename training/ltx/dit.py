"""Train ltx-tiny's text encoder and transformer together, on the latents of a trained autoencoder.

Flow matching, on the positions and with the conditions of LTX-Video 0.9.5 and later (`training.ltx.given`). A tenth of
the clips lose their prompt, which teaches classifier-free guidance. An average of the weights is saved.
"""

from __future__ import annotations

import logging
import random
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLLTXVideo,
    FlowMatchEulerDiscreteScheduler,
    LTXConditionPipeline,
    LTXVideoTransformer3DModel,
)
from torch import Tensor
from transformers import T5Config, T5EncoderModel, T5Tokenizer

from pipelines.catalogue import get_card
from pipelines.ltx.card import LTXCard
from pipelines.ltx.packing import causal_positions, pack
from training.ltx.given import KEYFRAME, given_first, keyframes, noise_levels, noised
from training.ltx.tokenizer import build_tokenizer
from training.ltx.vae import sampled
from training.optimization import Optimization, cosine, in_bfloat16
from training.world import Scene, describe, render, sample_scene

log = logging.getLogger(__name__)

STEPS = 3600
LEARNING_RATE = 2e-3
# (num_frames, height, width, clips, batch, weight)
POOLS = (
    (9, 64, 64, 9000, 24, 0.88),
    (9, 64, 96, 800, 16, 0.05),
    (9, 96, 64, 800, 16, 0.05),
    (17, 64, 64, 400, 12, 0.02),
)
PROMPT_DROPOUT, EMA = 0.1, 0.998


@dataclass(frozen=True, slots=True)
class Pool:
    """Encoded clips of one size."""

    scenes: list[Scene]
    latents: Tensor  # [N, f*h*w, C] packed, normalised
    grid: tuple[int, int, int]  # f, h, w
    size: tuple[int, int, int]  # frames, height and width in pixels
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
        embeds = text_encoder(tokens.input_ids, attention_mask=tokens.attention_mask)[0]  # as `LTXConditionPipeline`
        clean = pool.latents[index]
        noise = torch.randn_like(clean)
        level = noise_levels(pool.batch)
        frames, rows, columns = pool.grid
        given = given_first(pool.batch, frames, rows * columns)  # [B, S]
        sigma = torch.where(given, 0.0, level[:, None])
        mixed = (1 - level[:, None, None]) * clean + level[:, None, None] * noise
        mixed = torch.where(given[..., None], noised(clean, level), mixed)
        positions = causal_positions(pool.grid, card.compression, card.defaults.fps).repeat(pool.batch, 1, 1)
        extra = 0
        if rng.random() < KEYFRAME:
            scenes = [pool.scenes[i] for i in index.tolist()]
            keys = keyframes(vae, rng, scenes, pool.size, card.compression, card.defaults.fps)
            extra = keys.latents.shape[1]
            mixed = torch.cat([noised(keys.latents, level), mixed], dim=1)
            sigma = torch.cat([torch.zeros(pool.batch, extra), sigma], dim=1)
            positions = torch.cat([keys.positions, positions], dim=2)
        prediction = transformer(
            hidden_states=mixed, encoder_hidden_states=embeds, timestep=sigma * 1000,
            encoder_attention_mask=tokens.attention_mask, video_coords=positions, return_dict=False,
        )[0][:, extra:]  # fmt: skip
        predicted = (~given).float()[..., None]  # what is given is not predicted
        loss = ((prediction - (noise - clean)).square() * predicted).mean() / predicted.mean()
        optimization.step(loss)
        total_loss += loss.item()
        if (step + 1) % 100 == 0:
            elapsed = time.monotonic() - started
            log.info("dit step %d of %d, %.0f s: loss %.4f", step + 1, STEPS, elapsed, total_loss / 100)
            total_loss = 0.0
        if (step + 1) % 1000 == 0 or step + 1 == STEPS:
            with optimization.averaged():
                _save(out, vae, tokenizer, text_encoder, transformer)


def _encode(
    vae: AutoencoderKLLTXVideo, rng: random.Random, num_frames: int, height: int, width: int, clips: int, batch: int
) -> Pool:
    """Render clips and sample their latents, as image-to-video samples its first frame."""
    scenes: list[Scene] = []
    encoded = []
    while len(scenes) < clips:
        some = [sample_scene(rng) for _ in range(40)]
        encoded.append(sampled(vae, render(some, num_frames, height, width)))
        scenes += some
    latents = torch.cat(encoded)
    frames, rows, columns = latents.shape[2:]
    log.info("encoded %d clips of %dx%d", len(scenes), width, height)
    return Pool(scenes, pack(latents).contiguous(), (frames, rows, columns), (num_frames, height, width), batch)


def _save(
    out: Path,
    vae: AutoencoderKLLTXVideo,
    tokenizer: T5Tokenizer,
    text_encoder: T5EncoderModel,
    transformer: LTXVideoTransformer3DModel,
) -> None:
    """Save in bfloat16, which halves the files; training goes on in float32."""
    halves = in_bfloat16(vae=vae, text_encoder=text_encoder, transformer=transformer)
    scheduler = FlowMatchEulerDiscreteScheduler()
    LTXConditionPipeline(scheduler=scheduler, tokenizer=tokenizer, **halves).save_pretrained(out)
