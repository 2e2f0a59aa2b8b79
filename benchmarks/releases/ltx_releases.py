"""LTX-Video's releases: their files, repositories, numbers of shards, dtypes, and what they say of themselves.

Sources: Lightricks' repositories on the hub and `configs/*.yaml` in github.com/Lightricks/LTX-Video. The sizes that
`tests/unit/test_releases.py` computes from them are those that the hub shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.releases.ltx_names import Generation
from benchmarks.releases.ltx_networks import Size, transformer_config
from benchmarks.releases.networks import Width

FILES = "Lightricks/LTX-Video"
"""The repository with every release's single file; its folders are 0.9.0's."""
DISTILLED_LEVELS = (1.0, 0.9937, 0.9875, 0.9812, 0.975, 0.9094, 0.725, 0.4219)


@dataclass(frozen=True, slots=True)
class LTXRelease:
    """One release."""

    name: str
    size: Size
    vae: Generation
    file: str
    """The single file's name in `FILES`."""
    repository: str | None = None
    """The diffusers repository, if the makers have published one."""
    pipeline: str = "LTXConditionPipeline"
    """What its `model_index.json` names."""
    dtype: torch.dtype = torch.bfloat16
    """Of transformer and autoencoder; the text encoder is float32 in every repository."""
    shards: int = 1
    """Of the transformer in the repository."""
    levels: tuple[float, ...] | None = None
    """The noise levels that a distilled release was trained on, as its single file lists them."""
    fp8: bool = False
    """Whether there is a file in fp8 too."""

    @property
    def fp8_file(self) -> str:
        return self.file.replace(".safetensors", "-fp8.safetensors")

    @property
    def causal(self) -> bool:
        """Whether the first frame stands alone in time, and the schedule is the linear-quadratic one."""
        return self.vae == "0.9.5"


RELEASES = (
    LTXRelease(
        "0.9.0", "2B", "0.9.0", "ltx-video-2b-v0.9.safetensors", FILES, "LTXPipeline", dtype=torch.float32, shards=2
    ),
    LTXRelease(
        "0.9.1", "2B", "0.9.1", "ltx-video-2b-v0.9.1.safetensors", "Lightricks/LTX-Video-0.9.1", "LTXPipeline"
    ),
    LTXRelease(
        "0.9.5", "2B", "0.9.5", "ltx-video-2b-v0.9.5.safetensors", "Lightricks/LTX-Video-0.9.5", "LTXPipeline"
    ),
    LTXRelease("0.9.6-dev", "2B", "0.9.5", "ltxv-2b-0.9.6-dev-04-25.safetensors"),
    LTXRelease("0.9.6-distilled", "2B", "0.9.5", "ltxv-2b-0.9.6-distilled-04-25.safetensors"),
    LTXRelease(
        "0.9.7-dev", "13B", "0.9.5", "ltxv-13b-0.9.7-dev.safetensors", "Lightricks/LTX-Video-0.9.7-dev",
        shards=6, fp8=True,
    ),
    LTXRelease(
        "0.9.7-distilled", "13B", "0.9.5", "ltxv-13b-0.9.7-distilled.safetensors",
        "Lightricks/LTX-Video-0.9.7-distilled", shards=6, levels=DISTILLED_LEVELS, fp8=True,
    ),
    LTXRelease("0.9.8-dev", "13B", "0.9.5", "ltxv-13b-0.9.8-dev.safetensors", fp8=True),
    LTXRelease(
        "0.9.8-distilled", "13B", "0.9.5", "ltxv-13b-0.9.8-distilled.safetensors",
        "Lightricks/LTX-Video-0.9.8-13B-distilled", shards=6, levels=DISTILLED_LEVELS, fp8=True,
    ),
    LTXRelease(
        "0.9.8-2b-distilled", "2B", "0.9.5", "ltxv-2b-0.9.8-distilled.safetensors", levels=DISTILLED_LEVELS, fp8=True
    ),
)  # fmt: skip

_SCHEDULER = {"_class_name": "RectifiedFlowScheduler", "_diffusers_version": "0.25.1", "num_train_timesteps": 1000}
_SHIFTED = {**_SCHEDULER, "shifting": "SD3", "base_resolution": None, "target_shift_terminal": 0.1}
_LINEAR_QUADRATIC = {
    **_SCHEDULER, "shifting": None, "base_resolution": None, "target_shift_terminal": None, "sampler": "LinearQuadratic"
}  # fmt: skip
_OLD_ENCODER = [
    ["res_x", {"num_layers": 4}], ["compress_all", {}], ["res_x_y", 1], ["res_x", {"num_layers": 3}],
    ["compress_all", {}], ["res_x_y", 1], ["res_x", {"num_layers": 3}], ["compress_all", {}],
    ["res_x", {"num_layers": 3}], ["res_x", {"num_layers": 4}],
]  # fmt: skip
_NEW_ENCODER = [
    ["res_x", {"num_layers": 4}], ["compress_space_res", {"multiplier": 2}], ["res_x", {"num_layers": 6}],
    ["compress_time_res", {"multiplier": 2}], ["res_x", {"num_layers": 6}], ["compress_all_res", {"multiplier": 2}],
    ["res_x", {"num_layers": 2}], ["compress_all_res", {"multiplier": 2}], ["res_x", {"num_layers": 2}],
]  # fmt: skip
_UP = ["compress_all", {"residual": True, "multiplier": 2}]
_VAE_BLOCKS: Mapping[Generation, Mapping[str, Any]] = {
    "0.9.0": {
        "blocks": [
            ["res_x", 4], ["compress_all", 1], ["res_x_y", 1], ["res_x", 3], ["compress_all", 1], ["res_x_y", 1],
            ["res_x", 3], ["compress_all", 1], ["res_x", 3], ["res_x", 4],
        ],
    },
    "0.9.1": {
        "encoder_blocks": _OLD_ENCODER,
        "decoder_blocks": [
            ["res_x", {"num_layers": 5, "inject_noise": True}], _UP, ["res_x", {"num_layers": 6, "inject_noise": True}],
            _UP, ["res_x", {"num_layers": 7, "inject_noise": True}], _UP,
            ["res_x", {"num_layers": 8, "inject_noise": False}],
        ],
        "timestep_conditioning": True,
    },
    "0.9.5": {
        "encoder_blocks": _NEW_ENCODER,
        "decoder_blocks": [
            ["res_x", {"num_layers": 5, "inject_noise": False}], _UP,
            ["res_x", {"num_layers": 5, "inject_noise": False}], _UP,
            ["res_x", {"num_layers": 5, "inject_noise": False}], _UP,
            ["res_x", {"num_layers": 5, "inject_noise": False}],
        ],
        "timestep_conditioning": True,
    },
}  # fmt: skip


def file_config(release: LTXRelease, width: Width) -> Mapping[str, Any]:
    """The JSON in a single file's metadata, under `config`."""
    shared = transformer_config(release.size, width)
    kept = (
        "num_layers", "num_attention_heads", "attention_head_dim", "cross_attention_dim", "caption_channels",
        "in_channels", "out_channels", "activation_fn", "attention_bias", "norm_elementwise_affine", "norm_eps",
    )  # fmt: skip
    transformer = {
        "_class_name": "Transformer3DModel", "_diffusers_version": "0.25.1", "attention_type": "default",
        "double_self_attention": False, "dropout": 0.0, "num_embeds_ada_norm": 1000, "only_cross_attention": False,
        "upcast_attention": False, "qk_norm": "rms_norm", "standardization_norm": "rms_norm",
        "positional_embedding_type": "rope", "positional_embedding_theta": 10000.0,
        "positional_embedding_max_pos": [20, 2048, 2048], "timestep_scale_multiplier": 1000,
        **({"causal_temporal_positioning": True} if release.causal else {}), **{key: shared[key] for key in kept},
    }  # fmt: skip
    vae = {
        "_class_name": "CausalVideoAutoencoder", "dims": 3, "in_channels": 3, "out_channels": 3,
        "latent_channels": shared["in_channels"], "scaling_factor": 1.0, "norm_layer": "pixel_norm", "patch_size": 4,
        "latent_log_var": "uniform", "use_quant_conv": False, "causal_decoder": False, **_VAE_BLOCKS[release.vae],
    }  # fmt: skip
    scheduler = _LINEAR_QUADRATIC if release.causal else _SHIFTED
    levels = {"allowed_inference_steps": list(release.levels)} if release.levels else {}
    return {"transformer": transformer, "vae": vae, "scheduler": scheduler, **levels}


def scheduler_config(release: LTXRelease) -> Mapping[str, Any]:
    """The `scheduler_config.json` of a diffusers repository."""
    shifted = not release.causal
    return {
        "_class_name": "FlowMatchEulerDiscreteScheduler", "_diffusers_version": "0.34.0.dev0",
        "num_train_timesteps": 1000, "shift": 1.0, "use_dynamic_shifting": shifted, "base_shift": 0.95,
        "max_shift": 2.05, "base_image_seq_len": 1024, "max_image_seq_len": 4096,
        "shift_terminal": 0.1 if shifted else None, "invert_sigmas": False, "use_beta_sigmas": False,
        "use_exponential_sigmas": False, "use_karras_sigmas": False,
    }  # fmt: skip
