"""The reference of the fidelity table and the benchmark: diffusers' own pipeline with the same parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pipelines.ltx.card import LTXParameters


def reference_video(pipeline: Any, parameters: LTXParameters, prompt: str, **inputs: Any) -> Tensor:
    """Run an `LTXPipeline` or `LTXImageToVideoPipeline`; [F, 3, H, W] float32 in [0, 1]."""
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
        generator=torch.Generator().manual_seed(parameters.seed),
        output_type="pt",
        **inputs,
    ).frames
    video: Tensor = frames[0]
    return video
