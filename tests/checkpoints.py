"""Tiny random-weight LTX checkpoints, in diffusers' folder layout, and the cards that describe them."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKLLTXVideo, FlowMatchEulerDiscreteScheduler, LTXPipeline, LTXVideoTransformer3DModel
from transformers import T5Config, T5EncoderModel

from pipelines.catalogue import ModelCard
from training.tokenizer import build_tokenizer


def build_ltx(folder: Path, *, timestep_conditioning: bool = True, dynamic_shifting: bool = True) -> Path:
    """A 1 MB LTX pipeline with LTX-Video's real compression ratios (32x in space, 8x in time)."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    text_encoder = T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4,
            feed_forward_proj="gated-gelu", dropout_rate=0.0,
        )
    ).eval()  # fmt: skip
    vae = AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        timestep_conditioning=timestep_conditioning,
    ).eval()
    vae.latents_mean.copy_(torch.randn(8) * 0.1)
    vae.latents_std.copy_(torch.rand(8) + 0.5)
    transformer = LTXVideoTransformer3DModel(
        in_channels=8, out_channels=8, num_attention_heads=4, attention_head_dim=8, cross_attention_dim=32,
        num_layers=2, caption_channels=32,
    ).eval()  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=dynamic_shifting, base_shift=0.95, max_shift=2.05, base_image_seq_len=1024,
        max_image_seq_len=4096, shift_terminal=0.1,
    )  # fmt: skip
    LTXPipeline(
        scheduler=scheduler, vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, transformer=transformer
    ).save_pretrained(folder)
    return folder


def ltx_card(folder: Path, **defaults: object) -> ModelCard:
    """A card for a checkpoint that `build_ltx` made."""
    return ModelCard.model_validate(
        {
            "id": "random-ltx",
            "name": "Random LTX",
            "family": "ltx",
            "license": "none",
            "source": {"folder": str(folder)},
            "compression": {"spatial": 32, "temporal": 8},
            "limits": {"max_size": 512, "max_pixels": 2**24, "max_num_frames": 65},
            "defaults": {
                "width": 64, "height": 64, "num_frames": 9, "fps": 25, "num_inference_steps": 4, "guidance_scale": 3.0,
                "decode_timestep": 0.05, "decode_noise_scale": 0.025, "max_sequence_length": 32, **defaults,
            },
        }
    )  # fmt: skip
