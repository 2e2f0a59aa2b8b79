"""Simulated stage outputs: as large as real ones, and all zeros.

C latent channels; f, h, w latent frames, rows and columns; L tokens of width D.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class TextConditioning:
    """The prompt embeddings for the denoiser."""

    prompt_embeds: NDArray[np.float16]  # [1, L, D]


@dataclass(frozen=True, slots=True)
class DenoiseState:
    """Everything a stopped denoise needs to resume elsewhere. Serialised, it is the checkpoint."""

    latents: NDArray[np.float32]  # [1, C, f, h, w]
    step: int  # the next step to run, 0 <= step <= num_inference_steps


@dataclass(frozen=True, slots=True)
class FinalLatents:
    """The result of a finished denoise."""

    latents: NDArray[np.float32]  # [1, C, f, h, w]
