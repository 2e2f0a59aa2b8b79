"""A released `svd.safetensors` gives the same networks as the diffusers folder made from it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPVisionModelWithProjection

from benchmarks.fidelity import picture
from benchmarks.random_weights import build_svd, svd_card
from pipelines.catalogue import read_card
from pipelines.errors import WeightsUnavailable
from pipelines.local import LocalPipeline
from pipelines.requests import GenerationRequest, resolve
from pipelines.svd.card import SVDCard
from pipelines.svd.single_file import CLIP, UNET, clip_name, unet_name, vae_name

# Pairs read off Stability AI's own `VideoUNet`, `VideoDecoder` and `Encoder`, built with the released configuration.
UNET_NAMES = {
    "conv_in.weight": "input_blocks.0.0.weight",
    "time_embedding.linear_2.bias": "time_embed.2.bias",
    "add_embedding.linear_1.weight": "label_emb.0.0.weight",
    "down_blocks.0.resnets.0.spatial_res_block.norm1.weight": "input_blocks.1.0.in_layers.0.weight",
    "down_blocks.0.resnets.1.temporal_res_block.time_emb_proj.bias": "input_blocks.2.0.time_stack.emb_layers.1.bias",
    "down_blocks.1.downsamplers.0.conv.weight": "input_blocks.6.0.op.weight",
    "down_blocks.1.resnets.0.spatial_res_block.conv_shortcut.weight": "input_blocks.4.0.skip_connection.weight",
    "down_blocks.2.attentions.1.time_mixer.mix_factor": "input_blocks.8.1.time_mixer.mix_factor",
    "mid_block.attentions.0.temporal_transformer_blocks.0.norm_in.bias": "middle_block.1.time_stack.0.norm_in.bias",
    "mid_block.resnets.1.spatial_res_block.conv2.weight": "middle_block.2.out_layers.3.weight",
    "mid_block.attentions.0.time_pos_embed.linear_2.bias": "middle_block.1.time_pos_embed.2.bias",
    "up_blocks.0.upsamplers.0.conv.weight": "output_blocks.2.1.conv.weight",
    "up_blocks.1.upsamplers.0.conv.weight": "output_blocks.5.2.conv.weight",
    "up_blocks.3.resnets.2.time_mixer.mix_factor": "output_blocks.11.0.time_mixer.mix_factor",
    "up_blocks.3.attentions.2.proj_out.bias": "output_blocks.11.1.proj_out.bias",
    "conv_out.bias": "out.2.bias",
}
VAE_NAMES = {
    "quant_conv.weight": "conditioner.embedders.3.encoder.quant_conv.weight",
    "encoder.down_blocks.2.downsamplers.0.conv.bias": (
        "conditioner.embedders.3.encoder.encoder.down.2.downsample.conv.bias"
    ),
    "encoder.mid_block.attentions.0.to_q.weight": "conditioner.embedders.3.encoder.encoder.mid.attn_1.q.weight",
    "encoder.mid_block.attentions.0.group_norm.bias": "conditioner.embedders.3.encoder.encoder.mid.attn_1.norm.bias",
    "decoder.mid_block.resnets.1.time_mixer.mix_factor": "first_stage_model.decoder.mid.block_2.mix_factor",
    "decoder.up_blocks.0.resnets.1.spatial_res_block.conv1.bias": "first_stage_model.decoder.up.3.block.1.conv1.bias",
    "decoder.up_blocks.3.resnets.0.spatial_res_block.conv_shortcut.bias": (
        "first_stage_model.decoder.up.0.block.0.nin_shortcut.bias"
    ),
    "decoder.up_blocks.1.resnets.2.temporal_res_block.conv2.weight": (
        "first_stage_model.decoder.up.2.block.2.time_stack.out_layers.3.weight"
    ),
    "decoder.up_blocks.1.upsamplers.0.conv.weight": "first_stage_model.decoder.up.2.upsample.conv.weight",
    "decoder.conv_norm_out.weight": "first_stage_model.decoder.norm_out.weight",
    "decoder.time_conv_out.weight": "first_stage_model.decoder.conv_out.time_mix_conv.weight",
}


@pytest.mark.parametrize(("name", "released"), UNET_NAMES.items())
def test_names_of_the_unet(name: str, released: str) -> None:
    assert unet_name(name, layers_per_block=2) == released


@pytest.mark.parametrize(("name", "released"), VAE_NAMES.items())
def test_names_of_the_autoencoder(name: str, released: str) -> None:
    assert vae_name(name, levels=4) == released


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_svd(tmp_path_factory.mktemp("svd"))


@pytest.fixture(scope="module")
def released(folder: Path) -> Path:
    """The folder's weights in one file, as they would have been released."""
    unet = UNetSpatioTemporalConditionModel.from_pretrained(folder, subfolder="unet")
    vae = AutoencoderKLTemporalDecoder.from_pretrained(folder, subfolder="vae")
    clip = CLIPVisionModelWithProjection.from_pretrained(folder, subfolder="image_encoder")
    tensors = {UNET + unet_name(name, 1): tensor for name, tensor in unet.state_dict().items()}
    for name, tensor in vae.state_dict().items():
        is_attention = "attentions" in name and tensor.ndim == 2
        tensors[vae_name(name, 4)] = tensor[:, :, None, None] if is_attention else tensor
    tensors |= _open_clip(clip.state_dict())
    path = folder / "svd.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


def test_the_networks_are_the_same(folder: Path, released: Path) -> None:
    from_folder = LocalPipeline(svd_card(folder), gpu=False)
    from_file = LocalPipeline(single_file_card(folder, released), gpu=False)
    for stage, network in (("image", "clip"), ("image", "vae"), ("denoiser", "unet"), ("decoder", "vae")):
        ours, theirs = (getattr(getattr(p, stage), network).state_dict() for p in (from_file, from_folder))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    parameters = resolve(GenerationRequest(seed=1), from_file.card, has_image=True)
    assert torch.isfinite(from_file.generate("", parameters, picture())).all()


def test_a_file_of_something_else_says_so(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(WeightsUnavailable, match=r"other\.safetensors holds no unet"):
        LocalPipeline(single_file_card(folder, path), gpu=False).denoiser  # noqa: B018


def single_file_card(folder: Path, file: Path) -> SVDCard:
    source = {"file": str(file), "config": str(folder)}
    card = read_card({**svd_card(folder).model_dump(mode="json"), "source": source})
    assert isinstance(card, SVDCard)
    return card


def _open_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """open_clip's vision tower keeps the three attention projections in one tensor, and the last one transposed."""
    tensors: dict[str, Tensor] = {}
    projections: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        if name == "visual_projection.weight":
            tensors[CLIP + "proj"] = tensor.T
        elif "_proj." in name and "out_proj" not in name:
            layer, part, what = name.split(".")[3], name.split(".")[-2][0], name.split(".")[-1]
            projections.setdefault(f"{CLIP}transformer.resblocks.{layer}.attn.in_proj_{what}", {})[part] = tensor
        else:
            tensors[CLIP + clip_name(name)] = tensor
    return tensors | {name: torch.cat([parts[part] for part in "qkv"]) for name, parts in projections.items()}
