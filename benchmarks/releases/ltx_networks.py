"""The configurations of LTX-Video's networks, per size and per generation of the autoencoder.

Sources: diffusers' `scripts/convert_ltx_to_diffusers.py` and the defaults of its classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from diffusers import AutoencoderKLLTXVideo, LTXVideoTransformer3DModel

from benchmarks.releases.ltx_names import Generation
from benchmarks.releases.networks import Width, random_network

Size = Literal["2B", "13B"]

LAYERS: Mapping[Size, int] = {"2B": 28, "13B": 48}
_HEAD: Mapping[Size, int] = {"2B": 64, "13B": 128}
SMALL_LATENTS = 8

# A small encoder of 0.9.5 ends 2048 wide too: by that number alone diffusers tells the generation of a single file.
# Each of the two residual blocks of that width would be half a gigabyte, so a small one goes without them.
_WIDTHS: Mapping[Generation, Mapping[Width, Mapping[str, Any]]] = {
    "0.9.0": {
        Width.FULL: {"block_out_channels": [128, 256, 512, 512], "decoder_block_out_channels": [128, 256, 512, 512]},
        Width.SMALL: {"block_out_channels": [8, 16, 32, 32], "decoder_block_out_channels": [8, 16, 32, 32]},
    },
    "0.9.1": {
        Width.FULL: {"block_out_channels": [128, 256, 512, 512], "decoder_block_out_channels": [256, 512, 1024]},
        Width.SMALL: {"block_out_channels": [8, 16, 32, 32], "decoder_block_out_channels": [8, 16, 32]},
    },
    "0.9.5": {
        Width.FULL: {
            "block_out_channels": [128, 256, 512, 1024, 2048],
            "decoder_block_out_channels": [256, 512, 1024],
            "layers_per_block": [4, 6, 6, 2, 2],
        },
        Width.SMALL: {
            "block_out_channels": [4, 16, 32, 256, 2048],
            "decoder_block_out_channels": [8, 16, 32],
            "layers_per_block": [4, 6, 6, 2, 0],
        },
    },
}
_CONVOLUTIONS = {
    "down_block_types": ["LTXVideoDownBlock3D"] * 4,
    "layers_per_block": [4, 3, 3, 3, 4],
    "spatio_temporal_scaling": [True, True, True, False],
}
_CONDITIONED = {
    "decoder_spatio_temporal_scaling": [True] * 3,
    "upsample_residual": [True] * 3,
    "upsample_factor": [2] * 3,
    "timestep_conditioning": True,
}
_LAYERS: Mapping[Generation, Mapping[str, Any]] = {
    "0.9.0": {
        **_CONVOLUTIONS,
        "decoder_layers_per_block": [4, 3, 3, 3, 4],
        "decoder_spatio_temporal_scaling": [True, True, True, False],
        "decoder_inject_noise": [False] * 5,
        "upsample_residual": [False] * 4,
        "upsample_factor": [1] * 4,
        "timestep_conditioning": False,
    },
    "0.9.1": {
        **_CONVOLUTIONS,
        **_CONDITIONED,
        "decoder_layers_per_block": [5, 6, 7, 8],
        "decoder_inject_noise": [True, True, True, False],
    },
    "0.9.5": {
        **_CONDITIONED,
        "down_block_types": ["LTXVideo095DownBlock3D"] * 4,
        "downsample_type": ["spatial", "temporal", "spatiotemporal", "spatiotemporal"],
        "spatio_temporal_scaling": [True] * 4,
        "spatial_compression_ratio": 32,
        "temporal_compression_ratio": 8,
        "decoder_layers_per_block": [5, 5, 5, 5],
        "decoder_inject_noise": [False] * 4,
    },
}


def transformer_config(size: Size, width: Width) -> Mapping[str, Any]:
    """The `config.json` of a transformer, with every layer of the original."""
    heads, head, caption, latents = (
        (32, _HEAD[size], 4096, 128) if width is Width.FULL else (2, 16 if size == "2B" else 24, 32, SMALL_LATENTS)
    )
    return {
        "_class_name": "LTXVideoTransformer3DModel", "_diffusers_version": "0.34.0.dev0", "num_layers": LAYERS[size],
        "num_attention_heads": heads, "attention_head_dim": head, "cross_attention_dim": heads * head,
        "caption_channels": caption, "in_channels": latents, "out_channels": latents, "patch_size": 1,
        "patch_size_t": 1, "activation_fn": "gelu-approximate", "attention_bias": True, "attention_out_bias": True,
        "norm_elementwise_affine": False, "norm_eps": 1e-6, "qk_norm": "rms_norm_across_heads",
    }  # fmt: skip


def vae_config(generation: Generation, width: Width) -> Mapping[str, Any]:
    """The `config.json` of an autoencoder."""
    return {
        "_class_name": "AutoencoderKLLTXVideo", "_diffusers_version": "0.34.0.dev0", "in_channels": 3,
        "out_channels": 3, "latent_channels": 128 if width is Width.FULL else SMALL_LATENTS, "patch_size": 4,
        "patch_size_t": 1, "encoder_causal": True, "decoder_causal": False, "resnet_norm_eps": 1e-6,
        "scaling_factor": 1.0, **_LAYERS[generation], **_WIDTHS[generation][width],
    }  # fmt: skip


def transformer(name: str, size: Size, width: Width) -> LTXVideoTransformer3DModel:
    """The transformer of the release `name`."""
    config = transformer_config(size, width)
    return random_network(f"{name} transformer", width, lambda: LTXVideoTransformer3DModel.from_config(config))


def vae(name: str, generation: Generation, width: Width) -> AutoencoderKLLTXVideo:
    """The autoencoder of the release `name`, with latent statistics that are not 0 and 1."""
    config = vae_config(generation, width)

    def build() -> AutoencoderKLLTXVideo:
        network = AutoencoderKLLTXVideo.from_config(config)
        network.latents_mean.copy_(torch.randn(config["latent_channels"]) * 0.1)
        network.latents_std.copy_(torch.rand(config["latent_channels"]) + 0.5)
        return network

    return random_network(f"{name} vae", width, build)
