"""Write LTX-Video's releases: single files with the makers' names, and diffusers repositories."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.releases.files import Tensors, cast_to, write_file, write_json, write_weights
from benchmarks.releases.ltx_names import TRANSFORMER, VAE, transformer_name, vae_name
from benchmarks.releases.ltx_networks import transformer, transformer_config, vae, vae_config
from benchmarks.releases.ltx_releases import RELEASES, LTXRelease, file_config, scheduler_config
from benchmarks.releases.networks import Width
from benchmarks.releases.t5 import FP8, write_t5
from benchmarks.releases.tokenizer import write_tokenizer

REPOSITORIES: Mapping[str, LTXRelease] = {each.repository: each for each in RELEASES if each.repository}
SINGLE_FILES: Mapping[str, LTXRelease] = {each.file: each for each in RELEASES} | {
    each.fp8_file: each for each in RELEASES if each.fp8
}
MAX_LENGTH = 128


def transformer_tensors(release: LTXRelease, width: Width) -> Tensors:
    """The transformer's tensors under diffusers' names."""
    return cast_to(release.dtype, transformer(release.name, release.size, width).state_dict())


def vae_tensors(release: LTXRelease, width: Width) -> Tensors:
    """The autoencoder's tensors under diffusers' names."""
    return cast_to(release.dtype, vae(release.name, release.vae, width).state_dict())


def single_file(release: LTXRelease, width: Width, *, prefix: str = TRANSFORMER, fp8: bool = False) -> Tensors:
    """The tensors of a release's single file.

    Args:
        prefix: before each of the transformer's names; a file of a transformer alone often has none.
        fp8: whether attention and feed-forward weights are cast to fp8, without a scale, as in the makers' fp8 files.
    """
    tensors = {prefix + transformer_name(name): tensor for name, tensor in transformer_tensors(release, width).items()}
    if fp8:
        tensors = {name: tensor.to(FP8) if _is_cast(name, tensor) else tensor for name, tensor in tensors.items()}
    return tensors | vae_file(release, width)


def vae_file(release: LTXRelease, width: Width, *, prefix: str = VAE) -> Tensors:
    """The autoencoder's tensors in a single file, with the statistics that nobody uses."""
    state = vae_tensors(release, width)
    tensors = {prefix + vae_name(name, release.vae): tensor for name, tensor in state.items()}
    for number, unused in enumerate(("channel", "mean-of-stds", "mean-of-stds_over_std-of-means")):
        tensors[f"{prefix}per_channel_statistics.{unused}"] = torch.full_like(state["latents_std"], number)
    return tensors


def write_single_file(folder: Path, name: str) -> None:
    """Write a single file of the hub's Lightricks/LTX-Video, named as there."""
    release = SINGLE_FILES[name]
    tensors = single_file(release, Width.SMALL, fp8=name != release.file)
    write_file(folder / name, tensors, {"config": json.dumps(file_config(release, Width.SMALL))})


def write_repository(folder: Path, name: str) -> None:
    """Write a diffusers repository with all its components."""
    release = REPOSITORIES[name]
    write_json(folder / "model_index.json", model_index(release))
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler_config(release))
    write_tokenizer(folder / "tokenizer", MAX_LENGTH)
    write_t5(folder / "text_encoder", Width.SMALL)
    stem = "diffusion_pytorch_model"
    write_json(folder / "transformer" / "config.json", transformer_config(release.size, Width.SMALL))
    write_weights(folder / "transformer", stem, transformer_tensors(release, Width.SMALL), shards=release.shards)
    write_json(folder / "vae" / "config.json", vae_config(release.vae, Width.SMALL))
    write_weights(folder / "vae", stem, vae_tensors(release, Width.SMALL))


def model_index(release: LTXRelease) -> Mapping[str, object]:
    return {
        "_class_name": release.pipeline,
        "_diffusers_version": "0.34.0.dev0",
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "T5Tokenizer"],
        "transformer": ["diffusers", "LTXVideoTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLLTXVideo"],
    }


def _is_cast(name: str, tensor: Tensor) -> bool:
    return tensor.ndim == 2 and any(f".{part}." in name for part in ("attn1", "attn2", "ff"))
