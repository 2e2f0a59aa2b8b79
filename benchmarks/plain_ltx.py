"""What LTX-Video's makers compute and diffusers cannot, written down once more and as plainly as it can be.

Spatio-temporal guidance, guidance that changes from step to step, CFG-Zero*, and stochastic sampling. The networks,
the prompts' embeddings and the noise levels are diffusers'; the loop is written from LTX-Video's
`pipeline_ltx_video.py` and `rf.py`, and shares nothing with `pipelines.ltx`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.transformers.transformer_ltx import apply_rotary_emb
from diffusers.pipelines.ltx.pipeline_ltx import calculate_shift
from diffusers.pipelines.ltx.pipeline_ltx_condition import linear_quadratic_schedule
from PIL.Image import Image
from torch import Tensor
from torch.nn import functional

from pipelines.ltx.card import LTXParameters

EPSILON = 1e-6


@torch.no_grad()
def plain_latents(pipeline: Any, parameters: LTXParameters, prompt: str, picture: Image | None) -> Tensor:
    """The latents of a video, [1, C, f, h, w] float32, of unit variance.

    Args:
        pipeline: diffusers' pipeline of the release, in float32 on a CPU; its networks are used one by one.
        picture: of the video's size, as the autoencoder sees it.
    """
    asked, causal = parameters, parameters.causal_positions
    frames, rows, columns = (asked.num_frames - 1) // 8 + 1, asked.height // 32, asked.width // 32
    tokens = frames * rows * columns
    channels = pipeline.transformer.config.in_channels
    generator = torch.Generator().manual_seed(asked.seed)

    # The noise and the given frame; each generation of the releases draws them in its own order.
    noise, first = None, None
    if picture is None or causal:
        noise = torch.randn((1, channels, frames, rows, columns), generator=generator)
    if picture is not None:
        first = _encoded(pipeline, picture, asked, generator)
    if noise is None:
        noise = torch.randn((1, channels, frames, rows, columns), generator=generator)
    strength = torch.zeros(tokens)  # of the condition on each token
    if first is not None:
        noise[:, :, :1] = first
        strength[: rows * columns] = 1.0
    latents = noise.permute(0, 2, 3, 4, 1).reshape(1, tokens, channels)
    initial = latents.clone()

    embeds, mask, negative_embeds, negative_mask = pipeline.encode_prompt(
        prompt,
        negative_prompt=asked.negative_prompt,
        do_classifier_free_guidance=True,
        max_sequence_length=asked.max_sequence_length,
    )
    levels = _levels(pipeline, asked, tokens)
    for step, level in enumerate(levels):
        scale, stg_scale, rescaling, blocks = _guidance(asked, levels, step)
        if first is not None and asked.image_cond_noise_scale > 0:
            fresh = torch.randn(latents.shape, generator=generator)
            noised = initial + asked.image_cond_noise_scale * fresh * level**2
            latents = torch.where(strength[:, None] > 1 - EPSILON, noised, latents)

        embeds_of, masks_of = [embeds], [mask]
        if scale > 1:
            embeds_of, masks_of = [negative_embeds, *embeds_of], [negative_mask, *masks_of]
        if stg_scale > 0:
            embeds_of, masks_of = [*embeds_of, embeds], [*masks_of, mask]
        batch = len(embeds_of)
        keeps_attention = torch.ones(batch)
        if stg_scale > 0:
            keeps_attention[-1] = 0.0
        token_levels = torch.minimum(level * 1000, (1 - strength) * 1000)  # in thousandths, as the transformer has them
        positions: dict[str, Any] = {
            "num_frames": frames, "height": rows, "width": columns,
            "rope_interpolation_scale": (8 / asked.fps, 32, 32),
        }  # fmt: skip
        if causal:
            positions["video_coords"] = _positions(frames, rows, columns, asked.fps).repeat(batch, 1, 1)
        with _plain_attention(pipeline.transformer, blocks, keeps_attention):
            predictions = pipeline.transformer(
                hidden_states=latents.repeat(batch, 1, 1),
                encoder_hidden_states=torch.cat(embeds_of),
                timestep=(token_levels if first is not None else token_levels[:1]).repeat(batch, 1),
                encoder_attention_mask=torch.cat(masks_of),
                return_dict=False,
                **positions,
            )[0].split(1)
        positive = predictions[1 if scale > 1 else 0]
        velocity = positive
        if scale > 1:
            negative = predictions[0]
            if asked.cfg_star_rescale:
                negative = (positive * negative).sum() / ((negative**2).sum() + 1e-8) * negative
            velocity = negative + scale * (positive - negative)
        if stg_scale > 0:
            velocity = velocity + stg_scale * (positive - predictions[-1])
            if rescaling != 1:
                velocity = velocity * (rescaling * (positive.std() / velocity.std()) + (1 - rescaling))

        own = (token_levels / 1000)[:, None]
        lower = torch.cat([levels, torch.zeros(1)])
        below = torch.where(lower < own - EPSILON, lower, 0.0).amax(dim=1, keepdim=True)
        if asked.stochastic_sampling:
            clean = latents - own * velocity
            moved = (1 - below) * clean + below * torch.randn(latents.shape, generator=generator)
        else:
            moved = latents - (own - below) * velocity
        latents = torch.where(level - EPSILON < 1 - strength[:, None], moved, latents)
    return latents.reshape(1, frames, rows, columns, channels).permute(0, 4, 1, 2, 3)


def _encoded(pipeline: Any, picture: Image, asked: LTXParameters, generator: torch.Generator) -> Tensor:
    pixels = pipeline.video_processor.preprocess(picture, height=asked.height, width=asked.width).unsqueeze(2)
    latents = pipeline.vae.encode(pixels).latent_dist.sample(generator)
    mean, std = (part.reshape(1, -1, 1, 1, 1) for part in (pipeline.vae.latents_mean, pipeline.vae.latents_std))
    normal: Tensor = (latents - mean) / std
    return normal


def _levels(pipeline: Any, asked: LTXParameters, tokens: int) -> Tensor:
    """The noise level before each step: the release's own, or diffusers' schedule."""
    if asked.timesteps is not None:
        return torch.tensor(asked.timesteps) / 1000
    if asked.schedule == "linear-quadratic":
        return linear_quadratic_schedule(asked.num_inference_steps) * 1000 / 1000
    scheduler = pipeline.scheduler
    config = scheduler.config
    mu = calculate_shift(
        tokens, config.base_image_seq_len, config.max_image_seq_len, config.base_shift, config.max_shift
    )
    steps = asked.num_inference_steps
    scheduler.set_timesteps(sigmas=torch.linspace(1, 1 / steps, steps, dtype=torch.float64).numpy(), mu=mu)
    levels: Tensor = scheduler.sigmas[:-1]
    return levels


def _guidance(asked: LTXParameters, levels: Tensor, step: int) -> tuple[float, float, float, list[int]]:
    """Guidance, STG, `rescaling_scale` (for the makers 1 is off, where a card says 0) and skipped blocks of a step."""
    index = None
    if asked.guidance_timesteps:
        reached = [i for i, each in enumerate(asked.guidance_timesteps) if bool(each <= levels[step])]
        index = reached[0] if reached else len(asked.guidance_timesteps) - 1

    def of(value: Any) -> Any:
        return value if index is None or isinstance(value, int | float) else value[index]

    blocks = asked.stg_blocks
    if blocks and not isinstance(blocks[0], int):
        blocks = of(blocks)
    rescaling = of(asked.stg_rescale)
    return of(asked.guidance_scale), of(asked.stg_scale), 1.0 if rescaling == 0 else rescaling, list(blocks)  # type: ignore[arg-type]


def _positions(frames: int, rows: int, columns: int, fps: int) -> Tensor:
    """Seconds, and pixels down and across, of each token: [1, 3, f*h*w]. The first frame stands alone."""
    places = [
        (max(8 * frame + 1 - 8, 0), 32 * row, 32 * column)
        for frame in range(frames)
        for row in range(rows)
        for column in range(columns)
    ]
    positions = torch.tensor(places, dtype=torch.float32).T.unsqueeze(0).contiguous()
    positions[:, 0] *= 1.0 / fps
    return positions


@dataclass
class _PlainAttention:
    """Self-attention over all clips of the batch; where the mask is 0 the values take the place of its result."""

    keeps: Tensor  # [B]

    def __call__(self, attn: Any, hidden_states: Tensor, _other: None, _mask: None, image_rotary_emb: Any) -> Tensor:
        values = attn.to_v(hidden_states)
        queries = apply_rotary_emb(attn.norm_q(attn.to_q(hidden_states)), image_rotary_emb)
        keys = apply_rotary_emb(attn.norm_k(attn.to_k(hidden_states)), image_rotary_emb)
        heads = [each.unflatten(2, (attn.heads, -1)).transpose(1, 2) for each in (queries, keys, values)]
        mixed = functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        mask = self.keeps[:, None, None]
        out: Tensor = attn.to_out[1](attn.to_out[0](mixed * mask + values * (1 - mask)))
        return out


@contextmanager
def _plain_attention(transformer: Any, blocks: list[int], keeps: Tensor) -> Iterator[None]:
    before = {block: transformer.transformer_blocks[block].attn1.processor for block in blocks}
    for block in blocks:
        transformer.transformer_blocks[block].attn1.processor = _PlainAttention(keeps)
    try:
        yield
    finally:
        for block, processor in before.items():
            transformer.transformer_blocks[block].attn1.processor = processor
