"""Read Stable Video Diffusion as released: one file such as `svd_xt.safetensors`, with Stability AI's tensor names.

diffusers cannot read such a file for this family. This module finds each tensor of a diffusers network in the file,
under its name in Stability AI's generative-models (`VideoUNet`, `VideoDecoder`, open_clip's vision tower).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from pipelines.weights.recipe import Part, Recipe

if TYPE_CHECKING:
    from torch import Tensor

UNET = "model.diffusion_model."
CLIP = "conditioner.embedders.0.open_clip.model.visual."
ENCODER = "conditioner.embedders.3.encoder."
DECODER = "first_stage_model."

# A resnet block of the UNet, and the temporal one of the decoder.
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_OUTER = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_CLIP_OUTER = {
    "vision_model.embeddings.class_embedding": "class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "positional_embedding",
    "vision_model.pre_layrnorm": "ln_pre",
    "vision_model.post_layernorm": "ln_post",
}


def find_unet(stored: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Recipe:
    """The UNet's parts of a released file."""
    resnets = {name.split(".")[3] for name in expected if name.startswith("down_blocks.0.resnets.")}
    return _found({name: UNET + unet_name(name, len(resnets)) for name in expected}, stored, expected)


def find_vae(stored: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Recipe:
    """The autoencoder's parts of a released file: the encoder is the one that conditions on the image."""
    levels = {name.split(".")[2] for name in expected if name.startswith("decoder.up_blocks.")}
    return _found({name: vae_name(name, len(levels)) for name in expected}, stored, expected)


def find_clip(stored: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Recipe:
    """The parts of CLIP's vision tower: open_clip keeps the three projections of attention in one tensor."""
    parts: dict[str, Part] = {}
    for name in expected:
        if name == "visual_projection.weight":
            released, transform = f"{CLIP}proj", _transposed
        elif match := re.fullmatch(r"vision_model\.encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(\w+)", name):
            layer, part, what = match.groups()
            released = f"{CLIP}transformer.resblocks.{layer}.attn.in_proj_{what}"
            transform = partial(_third, "qkv".index(part))
        else:
            released, transform = CLIP + clip_name(name), _as_it_is
        if released in stored:
            parts[name] = Part(released, transform)
    return parts


def _found(names: Mapping[str, str], stored: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Recipe:
    # Some of diffusers' linear layers are convolutions of size one in the original, with the same numbers.
    return {
        name: Part(released, partial(_reshaped, tuple(expected[name].shape)))
        for name, released in names.items()
        if released in stored
    }


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def _transposed(tensor: Tensor) -> Tensor:
    return tensor.T


def _third(which: int, tensor: Tensor) -> Tensor:
    return tensor.chunk(3)[which]


def _reshaped(shape: tuple[int, ...], tensor: Tensor) -> Tensor:
    return tensor.reshape(shape)


def unet_name(name: str, layers_per_block: int) -> str:
    """The name in `VideoUNet`, which numbers blocks across levels, of a `UNetSpatioTemporalConditionModel` tensor."""
    per_level = layers_per_block + 1  # plus the downsampler going down, or one more block going up
    for ours, theirs in _OUTER.items():
        if name.startswith(f"{ours}."):
            return theirs + name.removeprefix(ours)
    if match := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)", name):
        kind, index, rest = match.groups()
        return f"middle_block.{1 if kind == 'attentions' else 2 * int(index)}.{_inside(rest)}"
    match = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)", name)
    assert match is not None, name
    way, level, kind, index, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
    if kind == "downsamplers":
        return f"input_blocks.{(level + 1) * per_level}.0.{rest.replace('conv', 'op')}"
    if kind == "upsamplers":
        attends = level > 0  # the lowest level has no attention before its upsampler
        return f"output_blocks.{level * per_level + layers_per_block}.{2 if attends else 1}.{rest}"
    number = level * per_level + index
    block = f"input_blocks.{number + 1}" if way == "down" else f"output_blocks.{number}"
    return f"{block}.{0 if kind == 'resnets' else 1}.{_inside(rest)}"


def vae_name(name: str, levels: int) -> str:
    """The released name of an `AutoencoderKLTemporalDecoder` tensor; it counts decoder levels from the finest."""
    if name.startswith("quant_conv."):
        return ENCODER + name
    half, rest = name.split(".", 1)
    prefix = f"{ENCODER}encoder." if half == "encoder" else f"{DECODER}decoder."
    rest = rest.replace("time_conv_out", "conv_out.time_mix_conv").replace("conv_norm_out", "norm_out")
    if match := re.fullmatch(r"(down|up)_blocks\.(\d+)\.(.+)", rest):
        level = int(match[2]) if match[1] == "down" else levels - 1 - int(match[2])
        inside = match[3].replace("downsamplers.0", "downsample").replace("upsamplers.0", "upsample")
        rest = f"{match[1]}.{level}.{inside.replace('resnets', 'block')}"
    rest = rest.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2")
    rest = rest.replace("mid_block.attentions.0", "mid.attn_1").replace("group_norm", "norm")
    rest = re.sub(r"\bto_([qkv])\b", r"\1", rest).replace("to_out.0", "proj_out")
    rest = rest.replace("time_mixer.mix_factor", "mix_factor").replace("spatial_res_block.", "")
    if "temporal_res_block." in rest:
        block, tensor = rest.split("temporal_res_block.")
        return f"{prefix}{block}time_stack.{_resnet(tensor)}"
    return prefix + rest.replace("conv_shortcut", "nin_shortcut")


def clip_name(name: str) -> str:
    """The name in open_clip's vision tower of a `CLIPVisionModelWithProjection` tensor."""
    for ours, theirs in _CLIP_OUTER.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    match = re.fullmatch(r"vision_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
    assert match is not None, name
    return f"transformer.resblocks.{match[1]}.{_CLIP_LAYER[match[2]]}.{match[3]}"


def _inside(rest: str) -> str:
    """The released name of a tensor within a resnet or attention block of the UNet."""
    if rest.startswith("spatial_res_block."):
        return _resnet(rest.removeprefix("spatial_res_block."))
    if rest.startswith("temporal_res_block."):
        return "time_stack." + _resnet(rest.removeprefix("temporal_res_block."))
    rest = rest.replace("temporal_transformer_blocks", "time_stack")
    return rest.replace("time_pos_embed.linear_1", "time_pos_embed.0").replace("embed.linear_2", "embed.2")


def _resnet(tensor: str) -> str:
    layer, what = tensor.rsplit(".", 1)
    return f"{_RESNET[layer]}.{what}"
