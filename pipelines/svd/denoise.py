"""Stage 2: noise to latents, one step at a time.

The arithmetic and its order are those of diffusers' `StableVideoDiffusionPipeline.__call__`. The loop is ours, so that
it can stop between any two steps and resume elsewhere with the same bits. The loop uses no randomness.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipelines.devices import place
from pipelines.protocols import DenoiseInputs, Resources
from pipelines.svd.card import SVDCard, SVDParameters
from pipelines.svd.outputs import DenoiseState, FinalLatents, ImageConditioning
from pipelines.weights.description import description_of
from pipelines.weights.load import load_network


class Denoiser:
    """The spatio-temporal UNet and its scheduler's configuration."""

    def __init__(self, card: SVDCard, resources: Resources) -> None:
        placement = place(card, resources)  # first: it keeps diffusers from importing an xformers that cannot run
        from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler

        self.unet = load_network(card, "unet", dtype=placement.dtype, device=placement.device)
        if placement.attention != "native":
            self.unet.set_attention_backend(placement.attention)
        folder = description_of(card, "scheduler")
        self.scheduler = EulerDiscreteScheduler.from_pretrained(str(folder), subfolder="scheduler")
        self.card = card
        self.placement = placement

    def warm_up(self) -> None:
        """Run one step at the default size, so that the first request finds every kernel ready."""
        parameters = self.card.default_parameters()
        dtype, config = self.placement.dtype, self.unet.config
        ratio = self.card.compression.spatial
        shape = (1, config.out_channels, parameters.height // ratio, parameters.width // ratio)
        embeds = torch.zeros(1, 1, config.cross_attention_dim, dtype=dtype)
        state = torch.Generator("cpu").get_state()
        image = ImageConditioning(embeds, torch.zeros(shape, dtype=dtype), state)
        self.begin(parameters, DenoiseInputs(text=None, image=image)).step()

    def begin(
        self,
        parameters: SVDParameters,
        inputs: DenoiseInputs[None, ImageConditioning, FinalLatents],
        state: DenoiseState | None = None,
    ) -> DenoiseRun:
        """Start a denoise, or resume one from its state."""
        assert inputs.latents is None, "the family has one pass"
        return DenoiseRun(self, parameters, inputs.image, state)


class DenoiseRun:
    """One video's denoise. Call `step` until `step_index` reaches `num_steps`, then take `result`."""

    def __init__(
        self, denoiser: Denoiser, parameters: SVDParameters, image: ImageConditioning, state: DenoiseState | None
    ) -> None:
        self.unet = denoiser.unet
        self.parameters = parameters
        self.device, self.dtype = denoiser.placement.device, denoiser.placement.dtype
        self.embeds = self._with_unconditional(image.image_embeds)  # [B, 1, D], B 2 with guidance
        latents = self._with_unconditional(image.image_latents)
        self.image_latents = latents.unsqueeze(1).repeat(1, parameters.num_frames, 1, 1, 1)  # [B, F, C, h, w]
        self.time_ids = self._time_ids()
        low, high = parameters.min_guidance_scale, parameters.max_guidance_scale
        per_frame = torch.linspace(low, high, parameters.num_frames)
        self.guidance = per_frame.to(self.device, self.dtype)[None, :, None, None, None]
        # The scheduler keeps a step counter, so each run has its own.
        self.scheduler = type(denoiser.scheduler).from_config(denoiser.scheduler.config)
        self.scheduler.set_timesteps(parameters.num_inference_steps, device=self.device)
        self.num_steps = len(self.scheduler.timesteps)
        if state is None:
            self.latents = self._initial_latents(image)
            self.step_index = 0
        else:
            self.latents = state.latents.to(self.device, self.dtype)
            self.step_index = state.step
        self.scheduler.set_begin_index(self.step_index)

    @property
    def state(self) -> DenoiseState:
        """The state of the run between two steps, on the CPU."""
        return DenoiseState(self.latents.cpu(), self.step_index)

    @torch.no_grad()
    def step(self) -> None:
        """Run the next step."""
        timestep = self.scheduler.timesteps[self.step_index]
        guided = self.parameters.guided
        batch = torch.cat([self.latents] * 2) if guided else self.latents
        batch = self.scheduler.scale_model_input(batch, timestep)
        prediction = self.unet(
            torch.cat([batch, self.image_latents], dim=2),
            timestep,
            encoder_hidden_states=self.embeds,
            added_time_ids=self.time_ids,
            return_dict=False,
        )[0]
        if guided:
            unconditional, conditional = prediction.chunk(2)
            prediction = unconditional + self.guidance * (conditional - unconditional)
        self.latents = self.scheduler.step(prediction, timestep, self.latents, return_dict=False)[0]
        self.step_index += 1

    def result(self) -> FinalLatents:
        """The finished latents, on the CPU. Call it only after the last step."""
        assert self.step_index == self.num_steps, f"{self.num_steps - self.step_index} steps are left"
        return FinalLatents(self.latents.cpu())

    def _with_unconditional(self, conditional: Tensor) -> Tensor:
        """Prepend zeros, which stand for "no image", if guidance is on; the result is on the stage's device."""
        if self.parameters.guided:
            conditional = torch.cat([torch.zeros_like(conditional), conditional])
        # An image encoder on a CPU may have computed in another dtype than the UNet here.
        return conditional.to(self.device, self.dtype)

    def _time_ids(self) -> Tensor:
        """The micro-conditioning, [B, 3]. SVD was trained on fps - 1."""
        parameters = self.parameters
        ids = [parameters.fps - 1, parameters.motion_bucket_id, parameters.noise_aug_strength]
        return torch.tensor([ids] * (2 if parameters.guided else 1), dtype=self.dtype, device=self.device)

    def _initial_latents(self, image: ImageConditioning) -> Tensor:
        _, channels, height, width = image.image_latents.shape
        generator = torch.Generator("cpu")
        generator.set_state(image.rng_state)
        shape = (1, self.parameters.num_frames, channels, height, width)
        latents = torch.randn(shape, generator=generator, dtype=self.dtype).to(self.device)
        return latents * self.scheduler.init_noise_sigma
