"""Stage 2: noise to latents, one step at a time.

The arithmetic and its order are those of diffusers' `LTXPipeline.__call__` and `LTXImageToVideoPipeline.__call__`; the
schedule and positions that cards of 0.9.5 and later choose are those of `LTXConditionPipeline`. The loop is ours, so
that it can stop between any two steps and resume elsewhere with the same bits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipelines.card import Compression
from pipelines.devices import place
from pipelines.ltx.card import LTXCard, LTXParameters
from pipelines.ltx.outputs import DenoiseState, FinalLatents, ImageConditioning, TextConditioning
from pipelines.ltx.packing import causal_positions, latent_grid, pack, unpack
from pipelines.ltx.schedule import noise_levels
from pipelines.protocols import DenoiseInputs, Resources
from pipelines.weights.description import description_of
from pipelines.weights.load import load_network


class Denoiser:
    """The transformer and its scheduler's configuration."""

    def __init__(self, card: LTXCard, resources: Resources) -> None:
        placement = place(card, resources)  # first: it keeps diffusers from importing an xformers that cannot run
        from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

        self.transformer = load_network(card, "transformer", dtype=placement.dtype, device=placement.device)
        if placement.attention != "native":
            self.transformer.set_attention_backend(placement.attention)
        folder = description_of(card, "scheduler")
        self.scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(str(folder), subfolder="scheduler")
        self.card = card
        self.placement = placement

    def warm_up(self) -> None:
        """Run one step at the default size, so that the first request finds every kernel ready."""
        parameters = self.card.default_parameters()
        length, width = parameters.max_sequence_length, self.transformer.config.caption_channels
        embeds = torch.zeros(1, length, width, dtype=self.placement.dtype)
        mask = torch.ones(1, length, dtype=torch.bool)
        text = TextConditioning(embeds, mask, embeds, mask)
        self.begin(parameters, DenoiseInputs(text, image=None)).step()

    def begin(
        self,
        parameters: LTXParameters,
        inputs: DenoiseInputs[TextConditioning, ImageConditioning | None, FinalLatents],
        state: DenoiseState | None = None,
    ) -> DenoiseRun:
        """Start a denoise, or resume one from its state."""
        assert inputs.latents is None, "the family has one pass"
        return DenoiseRun(self, parameters, inputs.text, inputs.image, state)


class DenoiseRun:
    """One video's denoise. Call `step` until `step_index` reaches `num_steps`, then take `result`."""

    def __init__(
        self,
        denoiser: Denoiser,
        parameters: LTXParameters,
        text: TextConditioning,
        image: ImageConditioning | None,
        state: DenoiseState | None,
    ) -> None:
        self.transformer = denoiser.transformer
        self.parameters = parameters
        self.device, self.dtype = denoiser.placement.device, denoiser.placement.dtype
        compression = denoiser.card.compression
        self.grid = latent_grid(parameters, compression)  # f, h, w
        self.rope_scale = (compression.temporal / parameters.fps, compression.spatial, compression.spatial)
        self.positions = self._positions(compression)
        self.embeds, self.mask = self._conditioning(text)
        self.clean_tokens = self._clean_tokens() if image is not None else None  # [B, S], 1 on the given frame
        # The scheduler keeps a step counter, so each run has its own. With one step, diffusers' stretch to the terminal
        # sigma has nothing to stretch and would divide by zero.
        single = {"shift_terminal": None} if parameters.num_inference_steps == 1 else {}
        self.scheduler = type(denoiser.scheduler).from_config(denoiser.scheduler.config, **single)
        self.timesteps = self._schedule()
        self.num_steps = len(self.timesteps)
        if state is None:
            self.generator = torch.Generator("cpu").manual_seed(parameters.seed)
            self.latents = self._initial_latents(image)
            self.step_index = 0
        else:
            self.generator = torch.Generator("cpu")
            self.generator.set_state(state.rng_state)
            self.latents = state.latents.to(self.device)
            self.step_index = state.step
        self.scheduler.set_begin_index(self.step_index)

    @property
    def state(self) -> DenoiseState:
        """The state of the run between two steps, on the CPU."""
        return DenoiseState(self.latents.cpu(), self.step_index, self.generator.get_state())

    @torch.no_grad()
    def step(self) -> None:
        """Run the next step."""
        timestep = self.timesteps[self.step_index]
        guided = self.parameters.guided
        batch = torch.cat([self.latents] * 2) if guided else self.latents
        batch = batch.to(self.dtype)
        per_sample = timestep.expand(batch.shape[0])  # [B]
        if self.clean_tokens is not None:
            per_sample = per_sample.unsqueeze(-1) * (1 - self.clean_tokens)  # [B, S]
        num_frames, height, width = self.grid
        with self.transformer.cache_context("cond_uncond"):
            prediction = self.transformer(
                hidden_states=batch,
                encoder_hidden_states=self.embeds,
                timestep=per_sample,
                encoder_attention_mask=self.mask,
                num_frames=num_frames,
                height=height,
                width=width,
                rope_interpolation_scale=self.rope_scale,
                video_coords=self.positions,
                return_dict=False,
            )[0].float()
        if guided:
            prediction = self._guided(*prediction.chunk(2))
        self.latents = self._advance(prediction, timestep)
        self.step_index += 1

    def result(self) -> FinalLatents:
        """The finished latents, on the CPU. Call it only after the last step."""
        assert self.step_index == self.num_steps, f"{self.num_steps - self.step_index} steps are left"
        return FinalLatents(unpack(self.latents, *self.grid).cpu(), self.generator.get_state())

    def _conditioning(self, text: TextConditioning) -> tuple[Tensor, Tensor]:
        embeds, mask = text.prompt_embeds, text.prompt_attention_mask
        if self.parameters.guided:
            assert text.negative_prompt_embeds is not None, "guidance needs the negative prompt's embeddings"
            assert text.negative_prompt_attention_mask is not None, "guidance needs the negative prompt's mask"
            embeds = torch.cat([text.negative_prompt_embeds, embeds])
            mask = torch.cat([text.negative_prompt_attention_mask, mask])
        # A text encoder on a CPU may have computed in another dtype than the transformer here.
        return embeds.to(self.device, self.dtype), mask.to(self.device)

    def _first_frame(self) -> Tensor:
        """A mask that is 1 on the first latent frame and 0 elsewhere, [1, 1, f, h, w]."""
        mask = torch.zeros(1, 1, *self.grid)
        mask[:, :, 0] = 1.0
        return mask

    def _clean_tokens(self) -> Tensor:
        packed = pack(self._first_frame()).squeeze(-1).to(self.device)
        return torch.cat([packed, packed]) if self.parameters.guided else packed

    def _positions(self, compression: Compression) -> Tensor | None:
        """The tokens' positions, [B, 3, S]; None leaves them to the transformer, which scales them by `rope_scale`."""
        if not self.parameters.causal_positions:
            return None
        positions = causal_positions(self.grid, compression, self.parameters.fps).to(self.device)
        return torch.cat([positions] * 2) if self.parameters.guided else positions

    def _schedule(self) -> Tensor:
        if self.parameters.timesteps is not None:
            chosen: dict[str, object] = {"timesteps": list(self.parameters.timesteps)}
        else:
            chosen = {"sigmas": noise_levels(self.parameters.schedule, self.parameters.num_inference_steps)}
        self.scheduler.set_timesteps(**chosen, device=self.device, mu=self._shift())
        timesteps: Tensor = self.scheduler.timesteps
        return timesteps

    def _shift(self) -> float:
        """The resolution-dependent shift of the schedule (diffusers `calculate_shift`)."""
        config = self.scheduler.config
        low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
        base, top = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
        num_frames, height, width = self.grid
        slope = (top - base) / (high - low)
        shift: float = num_frames * height * width * slope + (base - slope * low)
        return shift

    def _initial_latents(self, image: ImageConditioning | None) -> Tensor:
        channels = self.transformer.config.in_channels
        shape = (1, channels, *self.grid)
        if image is None:
            return pack(torch.randn(shape, generator=self.generator)).to(self.device)
        mean, logvar = image.moments.chunk(2, dim=1)
        deviation = torch.exp(0.5 * torch.clamp(logvar, -30.0, 20.0))
        first = mean + deviation * torch.randn(mean.shape, generator=self.generator, dtype=mean.dtype)
        first = first.float()
        first = (first - image.latents_mean.view(1, -1, 1, 1, 1)) / image.latents_std.view(1, -1, 1, 1, 1)
        noise = torch.randn(shape, generator=self.generator)
        clean = self._first_frame()
        first = first.repeat(1, 1, self.grid[0], 1, 1)
        return pack(first * clean + noise * (1 - clean)).to(self.device)

    def _guided(self, unconditional: Tensor, conditional: Tensor) -> Tensor:
        """Classifier-free guidance, rescaled to the conditional prediction's deviation (arXiv 2305.08891, 3.4)."""
        guided = unconditional + self.parameters.guidance_scale * (conditional - unconditional)
        share = self.parameters.guidance_rescale
        if share <= 0:
            return guided
        axes = list(range(1, guided.ndim))
        rescaled = guided * (conditional.std(dim=axes, keepdim=True) / guided.std(dim=axes, keepdim=True))
        return share * rescaled + (1 - share) * guided

    def _advance(self, prediction: Tensor, timestep: Tensor) -> Tensor:
        if self.clean_tokens is None:
            advanced: Tensor = self.scheduler.step(prediction, timestep, self.latents, return_dict=False)[0]
            return advanced
        # The given first frame stays unchanged; the scheduler advances only the others.
        prediction, latents = unpack(prediction, *self.grid), unpack(self.latents, *self.grid)
        moved = self.scheduler.step(prediction[:, :, 1:], timestep, latents[:, :, 1:], return_dict=False)[0]
        return pack(torch.cat([latents[:, :, :1], moved], dim=2))
