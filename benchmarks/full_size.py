"""The published models at their real size, with random weights: what they cost can be measured where no hub is reached.

The shapes are those of each checkpoint's published `config.json`; one name stands here for each model that is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

from pipelines.card import Source
from pipelines.catalogue import get_card
from pipelines.ltx.card import LTXCard
from pipelines.svd.card import SVDCard
from training.ltx.tokenizer import build_tokenizer
from training.svd.unet import build_scheduler


def checkpoint(model: str, folder: Path, device: torch.device) -> LTXCard | SVDCard:
    """Write a model's checkpoint, tens of gigabytes, and return its card with that folder as the source.

    Args:
        model: one of `ARCHITECTURES`.
        device: where the weights are drawn; a GPU is much faster.
    """
    card = get_card(model)
    assert isinstance(card, LTXCard | SVDCard)
    architecture = ARCHITECTURES[model]
    torch.manual_seed(0)
    with _as_default(getattr(torch, card.dtype["cuda"])), device, torch.no_grad():
        networks = architecture.networks()
    if "text_encoder" in networks:
        networks["text_encoder"].float()  # as it is published, in four shards
    pipeline = architecture.pipeline(**networks, **architecture.rest())
    pipeline.save_pretrained(folder, variant=card.source.variant, max_shard_size="5GB")
    return card.model_copy(update={"source": Source(folder=folder, variant=card.source.variant)})


@dataclass(frozen=True, slots=True)
class Architecture:
    """A diffusers pipeline in two parts: what is drawn at random on a device, and what is not."""

    pipeline: Any
    """Its class."""
    networks: Callable[[], dict[str, torch.nn.Module]]
    rest: Callable[[], dict[str, Any]]


def _ltx_networks() -> dict[str, torch.nn.Module]:
    """4.8 billion parameters of T5-XXL, 1.9 of the transformer, 1.2 of the autoencoder."""
    text_encoder = T5EncoderModel(
        T5Config(
            vocab_size=32128, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64,
            feed_forward_proj="gated-gelu",
        )
    ).eval()  # fmt: skip
    vae = AutoencoderKLLTXVideo(
        latent_channels=128,
        block_out_channels=(128, 256, 512, 1024, 2048),
        down_block_types=("LTXVideo095DownBlock3D",) * 4,
        decoder_block_out_channels=(256, 512, 1024),
        layers_per_block=(4, 6, 6, 2, 2),
        decoder_layers_per_block=(5, 5, 5, 5),
        spatio_temporal_scaling=(True,) * 4,
        decoder_spatio_temporal_scaling=(True,) * 3,
        decoder_inject_noise=(False,) * 4,
        downsample_type=("spatial", "temporal", "spatiotemporal", "spatiotemporal"),
        upsample_residual=(True,) * 3,
        upsample_factor=(2,) * 3,
        timestep_conditioning=True,
        encoder_causal=True,
        decoder_causal=False,
        spatial_compression_ratio=32,
        temporal_compression_ratio=8,
    ).eval()
    transformer = LTXVideoTransformer3DModel().eval()  # diffusers' defaults are this model's
    return {"text_encoder": text_encoder, "vae": vae, "transformer": transformer}


def _ltx_rest() -> dict[str, Any]:
    return {"tokenizer": build_tokenizer(), "scheduler": FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=False)}


def _svd_networks() -> dict[str, torch.nn.Module]:
    """1.5 billion parameters of the UNet, 0.6 of CLIP, 0.1 of the autoencoder."""
    unet = UNetSpatioTemporalConditionModel(num_attention_heads=(5, 10, 20, 20), num_frames=25).eval()
    vae = AutoencoderKLTemporalDecoder(
        block_out_channels=(128, 256, 512, 512), down_block_types=("DownEncoderBlock2D",) * 4, layers_per_block=2,
        sample_size=768,
    ).eval()  # fmt: skip
    image_encoder = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=1280, intermediate_size=5120, projection_dim=1024, num_hidden_layers=32,
            num_attention_heads=16, image_size=224, patch_size=14, hidden_act="gelu",
        )
    ).eval()  # fmt: skip
    return {"unet": unet, "vae": vae, "image_encoder": image_encoder}


def _svd_rest() -> dict[str, Any]:
    return {"feature_extractor": CLIPImageProcessor(crop_size=224, size=224), "scheduler": build_scheduler()}


ARCHITECTURES = {
    "ltx-video-0.9.5": Architecture(LTXPipeline, _ltx_networks, _ltx_rest),
    "svd-xt": Architecture(StableVideoDiffusionPipeline, _svd_networks, _svd_rest),
}


@contextmanager
def _as_default(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
