"""Write Stable Video Diffusion's releases: diffusers repositories with a variant, and Stability AI's single files.

A single file holds more than the model needs: the encoder of the first stage, a decoder beside the encoder that
conditions on the image, and what is left of open_clip's text tower. With them its size is the published 9.56 GB.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.releases.files import Tensors, cast_to, write_file, write_json, write_weights
from benchmarks.releases.networks import Width
from benchmarks.releases.svd_networks import clip, clip_config, image_vae, unet, unet_config, vae, vae_config
from pipelines.svd.single_file import CLIP, DECODER, ENCODER, UNET, clip_name, unet_name, vae_name

LAYERS_PER_BLOCK, LEVELS = 2, 4
VARIANT = "fp16"
OPEN_CLIP = CLIP.removesuffix("visual.")


@dataclass(frozen=True, slots=True)
class SVDRelease:
    """One release: the files of its repository."""

    name: str
    repository: str
    file: str
    dtype: torch.dtype
    """Of the single file."""
    image_decoder: str | None = None
    """The single file with the decoder of single images."""


RELEASES = (
    SVDRelease(
        "svd", "stabilityai/stable-video-diffusion-img2vid", "svd.safetensors", torch.float32,
        "svd_image_decoder.safetensors",
    ),
    SVDRelease(
        "svd-xt", "stabilityai/stable-video-diffusion-img2vid-xt", "svd_xt.safetensors", torch.float32,
        "svd_xt_image_decoder.safetensors",
    ),
    SVDRelease(
        "svd-xt-1.1", "stabilityai/stable-video-diffusion-img2vid-xt-1-1", "svd_xt_1_1.safetensors", torch.float16
    ),
)  # fmt: skip
REPOSITORIES: Mapping[str, SVDRelease] = {each.repository: each for each in RELEASES}
_SCHEDULER = {
    "_class_name": "EulerDiscreteScheduler", "_diffusers_version": "0.24.0.dev0", "beta_start": 0.00085,
    "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False, "interpolation_type": "linear",
    "num_train_timesteps": 1000, "prediction_type": "v_prediction", "set_alpha_to_one": False, "sigma_max": 700.0,
    "sigma_min": 0.002, "skip_prk_steps": True, "steps_offset": 1, "timestep_spacing": "leading",
    "timestep_type": "continuous", "trained_betas": None, "use_karras_sigmas": True,
}  # fmt: skip
_FEATURE_EXTRACTOR = {
    "crop_size": {"height": 224, "width": 224}, "do_center_crop": True, "do_convert_rgb": True, "do_normalize": True,
    "do_rescale": True, "do_resize": True, "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_processor_type": "CLIPImageProcessor", "image_std": [0.26862954, 0.26130258, 0.27577711], "resample": 3,
    "rescale_factor": 1 / 255, "size": {"shortest_edge": 224},
}  # fmt: skip
_INDEX = {
    "_class_name": "StableVideoDiffusionPipeline",
    "_diffusers_version": "0.24.0.dev0",
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
    "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
    "scheduler": ["diffusers", "EulerDiscreteScheduler"],
    "unet": ["diffusers", "UNetSpatioTemporalConditionModel"],
    "vae": ["diffusers", "AutoencoderKLTemporalDecoder"],
}


def write_repository(folder: Path, name: str) -> None:
    """Write a repository: the components' folders, each with float32 weights and their fp16 variant."""
    release = REPOSITORIES[name].name
    write_json(folder / "model_index.json", _INDEX)
    write_json(folder / "scheduler" / "scheduler_config.json", _SCHEDULER)
    write_json(folder / "feature_extractor" / "preprocessor_config.json", _FEATURE_EXTRACTOR)
    for component, config, network in (
        ("unet", unet_config(release, Width.SMALL), unet(release, Width.SMALL)),
        ("vae", vae_config(Width.SMALL), vae(release, Width.SMALL)),
        ("image_encoder", clip_config(Width.SMALL), clip(release, Width.SMALL)),
    ):
        write_json(folder / component / "config.json", config)
        stem = "model" if component == "image_encoder" else "diffusion_pytorch_model"
        write_weights(folder / component, stem, network.state_dict())
        write_weights(folder / component, stem, cast_to(torch.float16, network.state_dict()), variant=VARIANT)


def write_single_files(folder: Path, name: str) -> None:
    """Write the single files at the root of a release's repository."""
    release = REPOSITORIES[name]
    write_file(folder / release.file, single_file(release, Width.SMALL))
    if release.image_decoder is not None:
        write_file(folder / release.image_decoder, single_file(release, Width.SMALL, image_decoder=True))


def single_file(release: SVDRelease, width: Width, *, image_decoder: bool = False) -> Tensors:
    """The tensors of a release's single file, under Stability AI's names."""
    images = image_vae(release.name, width).state_dict()
    tensors = {
        UNET + unet_name(name, LAYERS_PER_BLOCK): tensor
        for name, tensor in unet(release.name, width).state_dict().items()
    }
    for name, tensor in vae(release.name, width).state_dict().items():
        if not (image_decoder and name.startswith("decoder.")):
            tensors[vae_name(name, LEVELS)] = _convolution(name, tensor)
    for name, tensor in images.items():
        released = vae_name(name, LEVELS) if name.startswith(("encoder.", "decoder.")) else ENCODER + name
        if name.startswith("decoder."):
            beside = released.replace(DECODER, ENCODER)
            tensors[beside] = _convolution(name, tensor)
            if image_decoder:
                tensors[released] = _convolution(name, tensor)
        elif name.startswith("encoder."):
            tensors[released.replace(ENCODER, DECODER)] = _convolution(name, tensor)
        elif name.startswith("post_quant_conv."):
            tensors[released] = tensor
    tensors |= _open_clip(clip(release.name, width).state_dict()) | _text_remains(width)
    return cast_to(release.dtype, tensors)


def _convolution(name: str, tensor: Tensor) -> Tensor:
    """Attention's linear layers are convolutions of size one in the makers' autoencoder."""
    return tensor[:, :, None, None] if ".attentions." in name and tensor.ndim == 2 else tensor


def _open_clip(state: Tensors) -> Tensors:
    """open_clip keeps the three projections of attention in one tensor, and its last projection transposed."""
    tensors: dict[str, Tensor] = {}
    projections: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        if name == "visual_projection.weight":
            tensors[f"{CLIP}proj"] = tensor.T
        elif "_proj." in name and "out_proj" not in name:
            _, _, _, layer, _, part, what = name.split(".")
            projections.setdefault(f"{CLIP}transformer.resblocks.{layer}.attn.in_proj_{what}", {})[part[0]] = tensor
        else:
            tensors[CLIP + clip_name(name)] = tensor
    return tensors | {name: torch.cat([parts[part] for part in "qkv"]) for name, parts in projections.items()}


def _text_remains(width: Width) -> Tensors:
    """What is left of open_clip's text tower when its transformer has been taken away."""
    full = width is Width.FULL
    vocabulary, channels, device = (49408, 1024, "meta") if full else (64, 32, "cpu")
    shapes = {
        "positional_embedding": (77, channels),
        "text_projection": (channels, channels),
        "logit_scale": (),
        "token_embedding.weight": (vocabulary, channels),
        "ln_final.weight": (channels,),
        "ln_final.bias": (channels,),
    }
    return {OPEN_CLIP + name: torch.zeros(shape, device=device) for name, shape in shapes.items()}
