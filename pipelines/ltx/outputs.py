"""The stage outputs of LTX-Video. B is 1; C latent channels; f, h, w latent frames, rows and columns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class TextConditioning:
    """The prompt embeddings for the denoiser. The negative half is None when guidance is off."""

    prompt_embeds: Tensor  # [1, L, D] in the text encoder's dtype
    prompt_attention_mask: Tensor  # [1, L] bool, False on padding
    negative_prompt_embeds: Tensor | None  # [1, L, D]
    negative_prompt_attention_mask: Tensor | None  # [1, L] bool


@dataclass(frozen=True, slots=True)
class ImageConditioning:
    """The posterior of the first frame; the denoiser samples it, with its own generator."""

    moments: Tensor  # [1, 2C, 1, h, w] in the autoencoder's dtype: mean and log-variance, not normalised
    latents_mean: Tensor  # [C]
    latents_std: Tensor  # [C]


@dataclass(frozen=True, slots=True)
class DenoiseState:
    """Everything a stopped denoise needs to resume elsewhere. Serialised, it is the checkpoint."""

    latents: Tensor  # [1, f*h*w, C] float32, packed, normalised to unit variance
    step: int  # the next step to run, 0 <= step <= num_inference_steps
    rng_state: Tensor  # [5056] uint8, of the CPU generator, after the initial draws


@dataclass(frozen=True, slots=True)
class FinalLatents:
    """The result of a finished denoise."""

    latents: Tensor  # [1, C, f, h, w] float32, normalised to unit variance
    rng_state: Tensor  # [5056] uint8: the decoder draws its noise from the same generator
