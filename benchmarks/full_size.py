"""The published models at their real size, with random weights: what they cost can be measured where no hub is reached.

The shapes are those of each checkpoint's published `config.json`; one name stands here for each model that is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLLTXVideo,
    AutoencoderKLTemporalDecoder,
    FlowMatchEulerDiscreteScheduler,
    LTXConditionPipeline,
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

from benchmarks.releases.ltx_networks import Size, transformer_config, vae_config
from benchmarks.releases.networks import Width
from benchmarks.releases.t5 import DERIVED, t5_config
from pipelines.card import Source
from pipelines.catalogue import get_card
from pipelines.ltx.card import LTXCard
from pipelines.svd.card import SVDCard
from training.ltx.tokenizer import build_tokenizer
from training.svd.unet import build_scheduler


def checkpoint(model: str, folder: Path, device: torch.device) -> LTXCard | SVDCard:
    """Write a model's checkpoint, tens of gigabytes, and return its card with that folder as the source of all.

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
    return card.model_copy(update={"source": Source(folder=folder, variant=card.source.variant), "components": {}})


@dataclass(frozen=True, slots=True)
class Architecture:
    """A diffusers pipeline in two parts: what is drawn at random on a device, and what is not."""

    pipeline: Any
    """Its class."""
    networks: Callable[[], dict[str, torch.nn.Module]]
    rest: Callable[[], dict[str, Any]]


def _ltx_networks(size: Size) -> dict[str, torch.nn.Module]:
    """4.8 billion parameters of T5-XXL, 1.9 or 13.0 of the transformer, 1.2 of the autoencoder of 0.9.5 and later."""
    text = {key: value for key, value in t5_config(Width.FULL).items() if key not in DERIVED}
    return {
        "text_encoder": T5EncoderModel(T5Config(**text)).eval(),
        "vae": AutoencoderKLLTXVideo.from_config(vae_config("0.9.5", Width.FULL)).eval(),
        "transformer": LTXVideoTransformer3DModel.from_config(transformer_config(size, Width.FULL)).eval(),
    }


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
    "ltx-video-0.9.5": Architecture(LTXConditionPipeline, partial(_ltx_networks, "2B"), _ltx_rest),
    "ltx-video-0.9.8-2b-distilled": Architecture(LTXConditionPipeline, partial(_ltx_networks, "2B"), _ltx_rest),
    "ltx-video-0.9.8-13b-distilled": Architecture(LTXConditionPipeline, partial(_ltx_networks, "13B"), _ltx_rest),
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
