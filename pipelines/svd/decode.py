"""Stage 3: latents to frames, chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pipelines.devices import place
from pipelines.protocols import Resources
from pipelines.svd.card import SVDCard, SVDParameters
from pipelines.svd.outputs import FinalLatents
from pipelines.weights.load import load_network


class VideoDecoder:
    """The decoder half of the autoencoder.

    It decodes `decode_chunk_size` frames together. The decoder's temporal convolutions end at a chunk's edges, so the
    result depends on that size. It decodes one video per call, because in a batch a chunk could straddle two videos.
    """

    def __init__(self, card: SVDCard, resources: Resources) -> None:
        placement = place(card, resources)  # first: it keeps diffusers from importing an xformers that cannot run
        if card.decode_dtype is not None:
            placement = replace(placement, dtype=getattr(torch, card.decode_dtype))
        self.vae = load_network(card, "vae", dtype=placement.dtype, device=placement.device, without="encoder")
        self.card = card
        self.placement = placement

    def warm_up(self) -> None:
        """Decode one chunk of the default size, so that the first request finds every kernel ready."""
        parameters = self.card.default_parameters()
        ratio = self.card.compression.spatial
        frames = min(parameters.decode_chunk_size, parameters.num_frames)
        shape = (1, frames, self.vae.config.latent_channels, parameters.height // ratio, parameters.width // ratio)
        list(self.chunks([FinalLatents(torch.zeros(shape, dtype=self.placement.dtype))], parameters))

    @torch.no_grad()
    def chunks(self, latents: Sequence[FinalLatents], parameters: SVDParameters) -> Iterator[Tensor]:
        """Decode latents to pixels, chunk by chunk: [n, 3, H, W] float32 in [0, 1] on the stage's device."""
        (final,) = latents
        scaled = 1 / self.vae.config.scaling_factor * final.latents[0].to(self.placement.device, self.placement.dtype)
        for chunk in scaled.split(parameters.decode_chunk_size):
            pixels = self.vae.decode(chunk, num_frames=len(chunk), return_dict=False)[0]  # in [-1, 1]
            yield (pixels.float() * 0.5 + 0.5).clamp(0, 1)

    def in_less_memory(
        self, latents: Sequence[FinalLatents], parameters: SVDParameters
    ) -> tuple[Iterator[Tensor], str | None]:
        """The same as `chunks`, of as few frames as diffusers advises for little memory: two, or else one."""
        size = min(parameters.decode_chunk_size, parameters.num_frames)
        fewer = 2 if size > 2 else 1
        said = (
            None
            if fewer == size
            else f"decoded {fewer} frames together and not {size}, because the memory ran out: the video may flicker"
        )
        return self.chunks(latents, parameters.model_copy(update={"decode_chunk_size": fewer})), said
