"""Stable Video Diffusion's networks, and how files hold them. No torch before a network is built."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from pipelines.svd.single_file import CLIP, DECODER, ENCODER, UNET, find_clip, find_unet, find_vae
from pipelines.weights.network import Network
from pipelines.weights.recipe import Layout


def _unet_class() -> Any:
    from diffusers.models.unets.unet_spatio_temporal_condition import UNetSpatioTemporalConditionModel

    return UNetSpatioTemporalConditionModel


def _vae_class() -> Any:
    from diffusers.models.autoencoders.autoencoder_kl_temporal_decoder import AutoencoderKLTemporalDecoder

    return AutoencoderKLTemporalDecoder


def _clip_class() -> Any:
    from transformers import CLIPVisionModelWithProjection

    return CLIPVisionModelWithProjection


def _under(*prefixes: str) -> Callable[[Collection[str]], Collection[str]]:
    return lambda names: [name for name in names if name.startswith(prefixes)]


NETWORKS: Mapping[str, Network] = {
    "unet": Network(_unet_class, file=Layout(find_unet, _under(UNET))),
    "vae": Network(
        _vae_class,
        # Both halves' unused twins may be in the file too.
        file=Layout(find_vae, _under(f"{ENCODER}encoder.", f"{ENCODER}quant_conv.", f"{DECODER}decoder.")),
    ),
    "image_encoder": Network(
        _clip_class,
        file=Layout(find_clip, _under(CLIP)),
        # Older versions of transformers stored the positions 0, 1, 2 ... too.
        ignored=(r"embeddings\.position_ids$",),
    ),
}
