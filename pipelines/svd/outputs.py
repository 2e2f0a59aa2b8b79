"""The stage outputs of Stable Video Diffusion.

F frames; C latent channels; h, w latent rows and columns.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class ImageConditioning:
    """An image as the denoiser sees it, twice: what it shows, and where."""

    image_embeds: Tensor  # [1, 1, D] of CLIP, in the stage's dtype
    image_latents: Tensor  # [1, C, h, w] in the stage's dtype: the mode of the posterior, not scaled
    rng_state: Tensor  # [5056] uint8, of the CPU generator, after the noise that was added to the image


@dataclass(frozen=True, slots=True)
class DenoiseState:
    """Everything a stopped denoise needs to go on elsewhere. Serialised, it is the checkpoint."""

    latents: Tensor  # [1, F, C, h, w] in the stage's dtype, at the noise level of `step`
    step: int  # the next step to run, 0 <= step <= num_inference_steps


@dataclass(frozen=True, slots=True)
class FinalLatents:
    """A finished denoise."""

    latents: Tensor  # [1, F, C, h, w] in the stage's dtype, scaled by the autoencoder's scaling_factor
