"""Stage 1b: encode the first frame to the moments of its latent distribution."""

from __future__ import annotations

import torch
from PIL.Image import Image, Resampling
from PIL.Image import new as new_image

from pipelines.devices import place
from pipelines.fit import fitted
from pipelines.ltx.card import LTXCard, LTXParameters
from pipelines.ltx.outputs import ImageConditioning
from pipelines.ltx.softening import softened
from pipelines.protocols import Resources
from pipelines.weights.load import load_network


class ImageEncoder:
    """The encoder half of the autoencoder."""

    def __init__(self, card: LTXCard, resources: Resources) -> None:
        placement = place(card, resources)  # first: it keeps diffusers from importing an xformers that cannot run
        from diffusers.video_processor import VideoProcessor

        self.vae = load_network(card, "vae", dtype=placement.dtype, device=placement.device, without="decoder")
        self.processor = VideoProcessor(vae_scale_factor=self.vae.spatial_compression_ratio)
        self.card = card
        self.placement = placement

    def warm_up(self) -> None:
        """Run once, so that the first request finds everything ready."""
        parameters = self.card.default_parameters()
        self.encode(new_image("RGB", (64, 64)), parameters)

    @torch.no_grad()
    def encode(self, image: Image, parameters: LTXParameters) -> ImageConditioning:
        """Fit the picture to the video's size, soften it and encode it. Results are on the CPU."""
        width, height = parameters.width, parameters.height
        picture = given_picture(image, parameters)
        pixels = self.processor.preprocess(picture, height=height, width=width)  # [1, 3, H, W] in [-1, 1]
        pixels = pixels.to(self.placement.device, self.placement.dtype)
        moments = self.vae.encode(pixels.unsqueeze(2)).latent_dist.parameters
        return ImageConditioning(moments.cpu(), self.vae.latents_mean.cpu(), self.vae.latents_std.cpu())


def given_picture(image: Image, parameters: LTXParameters) -> Image:
    """The picture that the autoencoder sees: fitted and, where the makers have it so, softened."""
    width, height = parameters.width, parameters.height
    picture = fitted(image, width, height, parameters.fit)
    blur, crf = parameters.image_blur, parameters.image_crf
    if not blur and crf is None:
        return picture
    # To be stretched it has still its own size; the makers soften what has the video's.
    return softened(picture.resize((width, height), Resampling.LANCZOS), blur=blur, crf=crf)
