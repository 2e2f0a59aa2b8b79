"""The stage outputs of Stable Video Diffusion.

F frames; C latent channels; h, w latent rows and columns.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class ImageConditioning:
    """The two encodings of an image for the denoiser: CLIP's embedding of its content, and spatial latents."""

    image_embeds: Tensor  # [1, 1, D] from CLIP, in the stage's dtype
    image_latents: Tensor  # [1, C, h, w] in the stage's dtype: the mode of the posterior, not scaled
    rng_state: Tensor  # [5056] uint8, of the CPU generator, after drawing the noise for the image


@dataclass(frozen=True, slots=True)
class DenoiseState:
    """Everything a stopped denoise needs to resume elsewhere. Serialised, it is the checkpoint."""

    latents: Tensor  # [1, F, C, h, w] in the stage's dtype, at the noise level of `step`
    step: int  # the next step to run, 0 <= step <= num_inference_steps


@dataclass(frozen=True, slots=True)
class FinalLatents:
    """The result of a finished denoise."""

    latents: Tensor  # [1, F, C, h, w] in the stage's dtype, scaled by the autoencoder's scaling_factor
