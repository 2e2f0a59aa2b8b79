"""Pack video latents into the transformer's tokens: one per latent position, frame by frame, row by row.

Source: diffusers `LTXPipeline._pack_latents` and `_unpack_latents` with patch size 1, the only one LTX-Video has.
"""

from __future__ import annotations

from torch import Tensor

from pipelines.card import Compression, Parameters


def latent_grid(parameters: Parameters, compression: Compression) -> tuple[int, int, int]:
    """The number of latent frames, rows and columns of a video: f, h, w."""
    return (
        (parameters.num_frames - 1) // compression.temporal + 1,
        parameters.height // compression.spatial,
        parameters.width // compression.spatial,
    )


def pack(latents: Tensor) -> Tensor:
    """Pack latents: [B, C, f, h, w] to [B, f*h*w, C]."""
    return latents.permute(0, 2, 3, 4, 1).flatten(1, 3)


def unpack(latents: Tensor, num_frames: int, height: int, width: int) -> Tensor:
    """Unpack latents: [B, f*h*w, C] to [B, C, f, h, w]."""
    return latents.reshape(latents.shape[0], num_frames, height, width, -1).permute(0, 4, 1, 2, 3)
