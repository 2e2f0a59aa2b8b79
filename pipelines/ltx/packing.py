"""Pack video latents into the transformer's tokens: one per latent position, frame by frame, row by row.

Source: diffusers `LTXPipeline._pack_latents` and `_unpack_latents` with patch size 1, the only one LTX-Video has.
"""

from __future__ import annotations

import torch
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


def in_order(latents: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """The same packed latents, in memory as `pack` leaves them: channel by channel.

    Latents that were stored come back token by token. Linear layers may sum the two orders in other ways.
    """
    return pack(unpack(latents, *grid).contiguous())


def causal_positions(grid: tuple[int, int, int], compression: Compression, fps: int) -> Tensor:
    """The position of each token, [1, 3, S]: seconds, and pixels down and across.

    The first latent frame stands for one frame, and each later one for `compression.temporal`
    (LTX-Video, `latent_to_pixel_coords` with `causal_fix`).
    """
    frames, rows, columns = (torch.arange(length) for length in grid)
    seconds = (frames * compression.temporal + 1 - compression.temporal).clamp(min=0).float() * (1.0 / fps)
    axes = torch.meshgrid(
        seconds, (rows * compression.spatial).float(), (columns * compression.spatial).float(), indexing="ij"
    )
    return torch.stack(axes).flatten(1).unsqueeze(0)
