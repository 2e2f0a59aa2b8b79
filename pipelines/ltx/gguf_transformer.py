"""LTX-Video transformers in GGUF files: under the makers' names, without the autoencoder of the makers' own file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipelines.weights.gguf_network import GGUFLayout
from pipelines.weights.header import Header
from pipelines.weights.recipe import Layout, Part, Recipe, Target

if TYPE_CHECKING:
    from torch import Tensor


def _find(stored: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Recipe:
    from diffusers.loaders.single_file_utils import convert_ltx_transformer_checkpoint_to_diffusers as convert

    renamed = convert({name: name for name in stored})  # it only renames
    return {name: Part(original) for name, original in renamed.items() if name in expected}


def _check(header: Header, network: Any, target: Target) -> str | None:  # noqa: ARG001
    vae = next((name for name in header.entries if name.startswith("vae.")), None)
    if vae is None:
        return None
    return (
        f"{header.title} has the autoencoder in it ({vae}), which cannot be read from a GGUF file: take a file of the "
        f"transformer alone, and the autoencoder from a safetensors file or a diffusers folder"
    )


LTX_GGUF = GGUFLayout(
    title="an LTX-Video transformer",
    architectures=frozenset({"ltxv", "pig"}),  # "pig" is what gguf-connector writes, whatever it holds
    layout=Layout(_find),
    example="ltx-video-2b-v0.9-Q8_0.gguf",
    check=_check,
)
