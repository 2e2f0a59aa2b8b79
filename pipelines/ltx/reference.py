"""The reference of the fidelity table and the benchmark: diffusers' own pipeline with the same parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from pipelines.ltx.card import LTXParameters
from pipelines.ltx.decode import seeded_noise
from pipelines.ltx.image import given_picture


def reference_of(parameters: LTXParameters, image: Image | None) -> type[Any]:
    """The pipeline that is the reference of a video: `LTXConditionPipeline` for releases with causal positions."""
    import diffusers

    if parameters.causal_positions:
        return diffusers.LTXConditionPipeline
    return diffusers.LTXPipeline if image is None else diffusers.LTXImageToVideoPipeline


def pipeline_for(pipeline: Any, parameters: LTXParameters, image: Image | None) -> Any:
    """The pipeline that is the reference of a video, with another one's components."""
    made = reference_of(parameters, image)(**pipeline.components)
    made.set_progress_bar_config(disable=True)
    return made


def reference_video(
    pipeline: Any, parameters: LTXParameters, prompt: str, image: Image | None = None, **inputs: Any
) -> Tensor:
    """Run the pipeline that `reference_of` names, with more inputs of its own; [F, 3, H, W] float32 in [0, 1].

    It is given the same picture as the autoencoder here, fitted and softened. It has no spatio-temporal guidance,
    guidance lists, CFG-Zero* or stochastic sampling: ValueError for parameters that have.
    """
    own = parameters.stg_scale or parameters.cfg_star_rescale or parameters.stochastic_sampling
    if own or not isinstance(parameters.guidance_scale, float):
        raise ValueError("diffusers has no pipeline for these parameters")
    generator = torch.Generator().manual_seed(parameters.seed)
    if image is not None:
        inputs["image"] = given_picture(image, parameters)
    if parameters.causal_positions:
        inputs |= {
            "timesteps": None if parameters.timesteps is None else list(parameters.timesteps),
            "image_cond_noise_scale": parameters.image_cond_noise_scale,
        }
    elif parameters.timesteps is not None:
        raise ValueError("diffusers takes timesteps only for releases with causal positions")
    decode = pipeline.vae.decode
    pipeline.vae.decode = _seeded(pipeline.vae, generator)
    try:
        frames = pipeline(
            prompt=prompt,
            negative_prompt=parameters.negative_prompt,
            width=parameters.width,
            height=parameters.height,
            num_frames=parameters.num_frames,
            frame_rate=parameters.fps,
            num_inference_steps=parameters.num_inference_steps,
            guidance_scale=parameters.guidance_scale,
            guidance_rescale=parameters.guidance_rescale,
            decode_timestep=parameters.decode_timestep,
            decode_noise_scale=parameters.decode_noise_scale,
            max_sequence_length=parameters.max_sequence_length,
            generator=generator,
            output_type="pt",
            **inputs,
        ).frames
    finally:
        pipeline.vae.decode = decode
    video: Tensor = frames[0]
    return video


def _seeded(vae: Any, generator: torch.Generator) -> Callable[..., Any]:
    """The decode of an autoencoder, with the noise of its layers drawn as here."""
    decode = vae.decode

    def seeded(*args: Any, **kwargs: Any) -> Any:
        with seeded_noise(vae, generator):
            return decode(*args, **kwargs)

    return seeded
