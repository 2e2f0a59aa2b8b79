"""Tiny random-weight checkpoints of each family, in diffusers' folder layout, and the cards that describe them."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLLTXVideo,
    AutoencoderKLTemporalDecoder,
    FlowMatchEulerDiscreteScheduler,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
)
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    T5Config,
    T5EncoderModel,
)

from pipelines.card import Dtype
from pipelines.ltx.card import LTXCard
from pipelines.svd.card import SVDCard
from training.ltx.tokenizer import build_tokenizer
from training.svd.unet import build_scheduler


def build_ltx(
    folder: Path,
    *,
    timestep_conditioning: bool = True,
    dynamic_shifting: bool = True,
    shift_terminal: float | None = 0.1,
) -> Path:
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
        max_image_seq_len=4096, shift_terminal=shift_terminal,
    )  # fmt: skip
    LTXPipeline(
        scheduler=scheduler, vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, transformer=transformer
    ).save_pretrained(folder)
    return folder


def ltx_card(folder: Path, **defaults: object) -> LTXCard:
    """A card for a checkpoint that `build_ltx` made."""
    return LTXCard.model_validate(
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
                "schedule": "uniform", "causal_positions": False, "t5_attends_to_padding": True,
                "decode_timestep": 0.05, "decode_noise_scale": 0.025, "max_sequence_length": 32, **defaults,
            },
        }
    )  # fmt: skip


def build_svd(folder: Path) -> Path:
    """A 10 MB Stable Video Diffusion pipeline: 8x in space, CLIP at its real input size, Karras sigmas to 700."""
    torch.manual_seed(0)
    unet = UNetSpatioTemporalConditionModel(
        sample_size=8, in_channels=8, out_channels=4, block_out_channels=(32, 64), layers_per_block=1, num_frames=8,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        cross_attention_dim=32, num_attention_heads=(2, 4), addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=96,
    ).eval()  # fmt: skip
    vae = AutoencoderKLTemporalDecoder(
        block_out_channels=(32, 32, 64, 64), down_block_types=("DownEncoderBlock2D",) * 4, latent_channels=4,
        layers_per_block=1,
    ).eval()  # fmt: skip
    image_encoder = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=32, projection_dim=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=37,
            image_size=224, patch_size=32,
        )
    ).eval()  # fmt: skip
    StableVideoDiffusionPipeline(
        vae=vae,
        image_encoder=image_encoder,
        unet=unet,
        scheduler=build_scheduler(),
        feature_extractor=CLIPImageProcessor(crop_size=224, size=224),
    ).save_pretrained(folder)
    return folder


def svd_card(folder: Path, dtype: Dtype = "float32", **defaults: object) -> SVDCard:
    """A card for a checkpoint that `build_svd` made, computing in `dtype` on a CPU."""
    return SVDCard.model_validate(
        {
            "id": "random-svd",
            "name": "Random SVD",
            "family": "svd",
            "license": "none",
            "source": {"folder": str(folder)},
            "dtype": {"cpu": dtype},
            "compression": {"spatial": 8, "temporal": 1},
            "limits": {"size_multiple": 8, "max_size": 512, "max_pixels": 2**24, "max_num_frames": 25},
            "defaults": {
                "width": 64, "height": 64, "num_frames": 8, "fps": 7, "num_inference_steps": 3, **defaults,
            },
        }
    )  # fmt: skip
