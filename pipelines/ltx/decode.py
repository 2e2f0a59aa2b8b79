"""Stage 3: latents to frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipelines.devices import place
from pipelines.ltx.card import LTXCard, LTXParameters
from pipelines.ltx.outputs import FinalLatents
from pipelines.ltx.packing import latent_grid
from pipelines.protocols import Resources
from pipelines.weights.load import load_network

if TYPE_CHECKING:
    from diffusers import AutoencoderKLLTXVideo


class VideoDecoder:
    """The decoder half of the autoencoder.

    It decodes a video as a whole, as diffusers does: the decoder is not causal, so framewise decoding gives different
    pixels. It decodes one video per call, because `AutoencoderKLLTXVideo.decode` with timestep conditioning cannot
    slice a batch.
    """

    def __init__(self, card: LTXCard, resources: Resources) -> None:
        placement = place(card, resources)  # first: it keeps diffusers from importing an xformers that cannot run
        self.vae = load_network(card, "vae", dtype=placement.dtype, device=placement.device, without="encoder")
        self.card = card
        self.placement = placement

    def warm_up(self) -> None:
        """Decode one video of zero latents at the default size, so that the first request finds every kernel ready."""
        parameters = self.card.default_parameters()
        grid = latent_grid(parameters, self.card.compression)
        latents = torch.zeros(1, self.vae.config.latent_channels, *grid)
        self.decode(FinalLatents(latents, torch.Generator("cpu").get_state()), parameters)

    @torch.no_grad()
    def decode(self, final: FinalLatents, parameters: LTXParameters, *, in_tiles: bool = False) -> Tensor:
        """Decode latents to pixels, [F, 3, H, W] float32 in [0, 1] on the stage's device.

        `in_tiles` takes less memory and more time, and shows at the tiles' edges, over which diffusers blends.
        """
        vae, device, dtype = self.vae, self.placement.device, self.placement.dtype
        mean, std = (part.view(1, -1, 1, 1, 1).cpu().float() for part in (vae.latents_mean, vae.latents_std))
        latents = (final.latents * std / vae.config.scaling_factor + mean).to(dtype)
        timestep = None
        generator = torch.Generator("cpu")
        generator.set_state(final.rng_state)
        if vae.config.timestep_conditioning:
            noise = torch.randn(latents.shape, generator=generator, dtype=dtype)
            noise_scale = parameters.decode_noise_scale
            if noise_scale is None:
                noise_scale = parameters.decode_timestep
            share = torch.tensor([noise_scale], dtype=dtype)[:, None, None, None, None]
            latents = (1 - share) * latents + share * noise
            timestep = torch.tensor([parameters.decode_timestep], dtype=dtype, device=device)
        with seeded_noise(vae, generator), tiling(vae, on=in_tiles):
            video = vae.decode(latents.to(device), timestep, return_dict=False)[0]  # [1, 3, F, H, W] in [-1, 1]
        return (video[0].permute(1, 0, 2, 3) * 0.5 + 0.5).clamp(0, 1)

    def chunks(self, latents: Sequence[FinalLatents], parameters: LTXParameters) -> Iterator[Tensor]:
        """Yield the whole video as one chunk."""
        (final,) = latents
        yield self.decode(final, parameters)

    def in_less_memory(
        self, latents: Sequence[FinalLatents], parameters: LTXParameters
    ) -> tuple[Iterator[Tensor], str | None]:
        """The same as `chunks`, decoded in diffusers' tiles of space and time."""
        (final,) = latents
        vae, size = self.vae, (parameters.height, parameters.width)
        one_tile = (
            final.latents.shape[2] <= vae.tile_sample_min_num_frames // vae.temporal_compression_ratio
            and size[0] <= vae.tile_sample_min_height
            and size[1] <= vae.tile_sample_min_width
        )
        said = None if one_tile else "decoded in tiles, because the memory ran out: their edges may show"
        return (self.decode(final, parameters, in_tiles=True) for _ in range(1)), said


@contextmanager
def tiling(vae: AutoencoderKLLTXVideo, *, on: bool) -> Iterator[None]:
    """Have the autoencoder decode in tiles of its own size meanwhile.

    `enable_tiling` alone tiles space; time has a switch of its own (diffusers `AutoencoderKLLTXVideo._decode`).
    """
    if not on:
        yield
        return
    vae.enable_tiling()
    vae.use_framewise_decoding = True
    try:
        yield
    finally:
        vae.disable_tiling()
        vae.use_framewise_decoding = False


@contextmanager
def seeded_noise(vae: AutoencoderKLLTXVideo, generator: torch.Generator) -> Iterator[None]:
    """Make the noise that 0.9.1's decoder adds to its own layers depend on the video's seed.

    The layers take it from PyTorch's global generators, so that in diffusers the same seed gives different videos.
    """
    if not any(vae.config.decoder_inject_noise):
        yield
        return
    devices = [vae.device] if vae.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(int(torch.randint(2**63 - 1, (), generator=generator)))
        yield
