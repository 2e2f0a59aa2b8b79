"""Lightricks' own names of an LTX-Video's tensors: the way back of diffusers' converters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

TRANSFORMER = "model.diffusion_model."
VAE = "vae."
Generation = Literal["0.9.0", "0.9.1", "0.9.5"]
"""The autoencoder's generations, by the release that began each."""

_TRANSFORMER = {"proj_in": "patchify_proj", "time_embed": "adaln_single", "norm_q": "q_norm", "norm_k": "k_norm"}
_STATISTICS = {
    "latents_mean": "per_channel_statistics.mean-of-means",
    "latents_std": "per_channel_statistics.std-of-means",
}
# The makers number everything between the first and the last convolution in one list, diffusers groups it by level.
_OLD_ENCODER = {
    "down_blocks.0.resnets": 0, "down_blocks.0.downsamplers.0": 1, "down_blocks.0.conv_out": 2,
    "down_blocks.1.resnets": 3, "down_blocks.1.downsamplers.0": 4, "down_blocks.1.conv_out": 5,
    "down_blocks.2.resnets": 6, "down_blocks.2.downsamplers.0": 7,
    "down_blocks.3.resnets": 8, "mid_block": 9,
}  # fmt: skip
_OLD_DECODER = {
    "mid_block": 0, "up_blocks.0.resnets": 1,
    "up_blocks.1.upsamplers.0": 2, "up_blocks.1.resnets": 3,
    "up_blocks.2.conv_in": 4, "up_blocks.2.upsamplers.0": 5, "up_blocks.2.resnets": 6,
    "up_blocks.3.conv_in": 7, "up_blocks.3.upsamplers.0": 8, "up_blocks.3.resnets": 9,
}  # fmt: skip
_NEW_ENCODER = {"mid_block": 8} | {
    f"down_blocks.{level}.{part}": 2 * level + later
    for level in range(4)
    for part, later in (("resnets", 0), ("downsamplers.0", 1))
}
_NEW_DECODER = {"mid_block": 0} | {
    f"up_blocks.{level}.{part}": 2 * level + later
    for level in range(3)
    for part, later in (("upsamplers.0", 1), ("resnets", 2), ("time_embedder", 2))
}
_BLOCKS: Mapping[Generation, Mapping[str, Mapping[str, int]]] = {
    "0.9.0": {"encoder": _OLD_ENCODER, "decoder": _OLD_DECODER},
    "0.9.1": {"encoder": _OLD_ENCODER, "decoder": _NEW_DECODER},
    "0.9.5": {"encoder": _NEW_ENCODER, "decoder": _NEW_DECODER},
}
_LISTS = {"encoder": "down_blocks", "decoder": "up_blocks"}
_KEPT = ("resnets", "time_embedder")
"""Parts of a block that keep their place in its name; of the others, the block is all there is."""


def transformer_name(name: str) -> str:
    """The makers' name, without prefix, of a tensor of `LTXVideoTransformer3DModel`."""
    for ours, theirs in _TRANSFORMER.items():
        name = name.replace(ours, theirs)
    return name


def vae_name(name: str, generation: Generation) -> str:
    """The makers' name, without prefix, of a tensor of `AutoencoderKLLTXVideo`."""
    if name in _STATISTICS:
        return _STATISTICS[name]
    half, inside = name.split(".", 1)
    for block, number in _BLOCKS[generation][half].items():
        if inside.startswith(f"{block}."):
            rest = inside.removeprefix(f"{block}.")
            kept = next((f"{part}." for part in _KEPT if block.endswith(part)), "")
            return f"{half}.{_LISTS[half]}.{number}.{_within(kept + rest)}"
    inside = re.sub(r"^(time_embedder|scale_shift_table)", r"last_\1", inside)
    return f"{half}.{_within(inside)}"


def _within(rest: str) -> str:
    rest = rest.replace("resnets.", "res_blocks.").replace("conv_shortcut.conv.", "conv_shortcut.")
    return re.sub(r"\bnorm3\.", "norm3.norm.", rest)
