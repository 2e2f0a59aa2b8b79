"""The reference of the fidelity tests: diffusers' own pipeline with the same parameters and the same fitted picture."""

from __future__ import annotations

from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from pipelines.fit import fitted
from pipelines.svd.card import SVDParameters


def reference_video(pipeline: Any, parameters: SVDParameters, image: Image) -> Tensor:
    """Run a `StableVideoDiffusionPipeline`; [F, 3, H, W] float32 in [0, 1]."""
    frames = pipeline(
        image=fitted(image, parameters.width, parameters.height, parameters.fit),
        width=parameters.width,
        height=parameters.height,
        num_frames=parameters.num_frames,
        num_inference_steps=parameters.num_inference_steps,
        min_guidance_scale=parameters.min_guidance_scale,
        max_guidance_scale=parameters.max_guidance_scale,
        fps=parameters.fps,
        motion_bucket_id=parameters.motion_bucket_id,
        noise_aug_strength=parameters.noise_aug_strength,
        decode_chunk_size=parameters.decode_chunk_size,
        generator=torch.Generator().manual_seed(parameters.seed),
        output_type="pt",
    ).frames
    video: Tensor = frames[0]
    return video
