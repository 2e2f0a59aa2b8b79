"""The configurations of Stable Video Diffusion's networks, and of the networks that its single files hold besides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusers import AutoencoderKL, AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from benchmarks.releases.networks import Width, random_network

FRAMES: Mapping[str, int] = {"svd": 14, "svd-xt": 25, "svd-xt-1.1": 25}
"""The releases, and the number of frames each was trained on."""


def unet_config(release: str, width: Width) -> Mapping[str, Any]:
    """The UNet's `config.json`. A group norm takes 32 channels, so no level can be narrower."""
    full = width is Width.FULL
    return {
        "_class_name": "UNetSpatioTemporalConditionModel", "_diffusers_version": "0.24.0.dev0", "in_channels": 8,
        "out_channels": 4, "layers_per_block": 2, "num_frames": FRAMES[release], "transformer_layers_per_block": 1,
        "sample_size": 96,
        "down_block_types": [*["CrossAttnDownBlockSpatioTemporal"] * 3, "DownBlockSpatioTemporal"],
        "up_block_types": ["UpBlockSpatioTemporal", *["CrossAttnUpBlockSpatioTemporal"] * 3],
        "block_out_channels": [320, 640, 1280, 1280] if full else [32, 64, 32, 32],
        "num_attention_heads": [5, 10, 20, 20] if full else [2, 4, 2, 2],
        "cross_attention_dim": 1024 if full else 32,
        "addition_time_embed_dim": 256 if full else 32,
        "projection_class_embeddings_input_dim": 768 if full else 96,
    }  # fmt: skip


def vae_config(width: Width) -> Mapping[str, Any]:
    """The autoencoder's `config.json`."""
    return {
        "_class_name": "AutoencoderKLTemporalDecoder", "_diffusers_version": "0.24.0.dev0", "in_channels": 3,
        "out_channels": 3, "latent_channels": 4, "layers_per_block": 2, "down_block_types": ["DownEncoderBlock2D"] * 4,
        "block_out_channels": [128, 256, 512, 512] if width is Width.FULL else [32, 64, 32, 32], "sample_size": 768,
        "scaling_factor": 0.18215, "force_upcast": True,
    }  # fmt: skip


def clip_config(width: Width) -> Mapping[str, Any]:
    """The `config.json` of CLIP-H's vision tower, with every layer of the original."""
    sizes = (
        {"hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 16, "projection_dim": 1024}
        if width is Width.FULL
        else {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "projection_dim": 32}
    )
    return {
        "architectures": ["CLIPVisionModelWithProjection"], "model_type": "clip_vision_model", "num_hidden_layers": 32,
        "image_size": 224, "patch_size": 14, "num_channels": 3, "hidden_act": "gelu", "attention_dropout": 0.0,
        "dropout": 0.0, "initializer_factor": 1.0, "initializer_range": 0.02, "layer_norm_eps": 1e-5,
        "torch_dtype": "float16", "transformers_version": "4.34.0.dev0", **sizes,
    }  # fmt: skip


def unet(release: str, width: Width) -> UNetSpatioTemporalConditionModel:
    config = unet_config(release, width)
    return random_network(f"{release} unet", width, lambda: UNetSpatioTemporalConditionModel.from_config(config))


def vae(release: str, width: Width) -> AutoencoderKLTemporalDecoder:
    config = vae_config(width)
    return random_network(f"{release} vae", width, lambda: AutoencoderKLTemporalDecoder.from_config(config))


def image_vae(release: str, width: Width) -> AutoencoderKL:
    """The autoencoder of single images: its decoder is the one of the `image_decoder` files."""
    config = {key: value for key, value in vae_config(width).items() if not key.startswith("_")}
    config["up_block_types"] = ["UpDecoderBlock2D"] * 4
    return random_network(f"{release} image vae", width, lambda: AutoencoderKL.from_config(config))


def clip(release: str, width: Width) -> CLIPVisionModelWithProjection:
    stored = ("architectures", "model_type", "torch_dtype", "transformers_version")
    config = {key: value for key, value in clip_config(width).items() if key not in stored}
    return random_network(f"{release} clip", width, lambda: CLIPVisionModelWithProjection(CLIPVisionConfig(**config)))
