"""Stage 1: encode the image to CLIP's embedding and to latents.

The encoder half of the autoencoder computes in float32 when the weights are float16 and the checkpoint says
`force_upcast`. For this, diffusers casts a whole shared autoencoder to float32 and back. Here the encoder stays in
float32, with the same bits, because the cast from float16 to float32 is exact.
"""

from __future__ import annotations

import torch
from PIL.Image import Image
from PIL.Image import new as new_image
from torch import Tensor

from pipelines.devices import place
from pipelines.fit import fitted
from pipelines.protocols import Resources
from pipelines.svd.card import SVDCard, SVDParameters
from pipelines.svd.outputs import ImageConditioning
from pipelines.weights.description import description_of
from pipelines.weights.load import load_network

CLIP_SIZE = (224, 224)  # fixed in diffusers' pipeline, whatever the checkpoint says


class ImageEncoder:
    """CLIP's vision tower and the encoder half of the autoencoder."""

    def __init__(self, card: SVDCard, resources: Resources) -> None:
        placement = place(card, resources)  # first: it keeps diffusers from importing an xformers that cannot run
        from diffusers.video_processor import VideoProcessor
        from transformers import CLIPImageProcessor

        device, dtype = placement.device, placement.dtype
        self.clip = load_network(card, "image_encoder", dtype=dtype, device=device)
        folder = description_of(card, "feature_extractor")
        self.normalizer = CLIPImageProcessor.from_pretrained(str(folder), subfolder="feature_extractor")
        self.vae = load_network(card, "vae", dtype=dtype, device=device, without="decoder")
        if dtype == torch.float16 and self.vae.config.force_upcast:
            self.vae.to(torch.float32)
        self.processor = VideoProcessor(vae_scale_factor=2 ** (len(self.vae.config.block_out_channels) - 1))
        self.card = card
        self.placement = placement

    def warm_up(self) -> None:
        """Run once, so that the first request finds everything ready."""
        parameters = self.card.default_parameters()
        self.encode(new_image("RGB", (64, 64)), parameters)

    @torch.no_grad()
    def encode(self, image: Image, parameters: SVDParameters) -> ImageConditioning:
        """Fit the picture to the video's size, add noise and encode. Results are on the CPU.

        CLIP sees what the video begins with, not what is cropped. Its input is square: it stretches what it is given.
        """
        device, dtype = self.placement.device, self.placement.dtype
        image = fitted(image, parameters.width, parameters.height, parameters.fit)
        embeds = self.clip(self._clip_pixels(image).to(device, dtype)).image_embeds.unsqueeze(1)
        generator = torch.Generator("cpu").manual_seed(parameters.seed)
        pixels = self.processor.preprocess(
            image, height=parameters.height, width=parameters.width
        )  # [1, 3, H, W] in [-1, 1]
        pixels = pixels + parameters.noise_aug_strength * torch.randn(pixels.shape, generator=generator)
        latents = self.vae.encode(pixels.to(device, self.vae.dtype)).latent_dist.mode().to(dtype)
        return ImageConditioning(embeds.cpu(), latents.cpu(), generator.get_state())

    def _clip_pixels(self, image: Image) -> Tensor:
        """CLIP's input, [1, 3, 224, 224]: resized in [-1, 1], as in SVD's training, then normalised."""
        from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import (
            _resize_with_antialiasing,
        )

        pixels = self.processor.numpy_to_pt(self.processor.pil_to_numpy(image))  # [1, 3, H, W] in [0, 1]
        pixels = (_resize_with_antialiasing(pixels * 2.0 - 1.0, CLIP_SIZE) + 1.0) / 2.0
        normalized: Tensor = self.normalizer(
            images=pixels, do_normalize=True, do_center_crop=False, do_resize=False, do_rescale=False,
            return_tensors="pt",
        ).pixel_values  # fmt: skip
        return normalized
