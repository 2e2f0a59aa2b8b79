"""Stage 2: noise to latents, one step at a time.

The arithmetic and its order are those of the diffusers pipeline of the release: `LTXPipeline` and
`LTXImageToVideoPipeline` for 0.9.0 and 0.9.1, `LTXConditionPipeline` for 0.9.5 and later. The loop is ours, so that it
can stop between any two steps and resume elsewhere with the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pipelines.devices import place
from pipelines.errors import ConfigError
from pipelines.ltx import conditions, first_frame
from pipelines.ltx.card import LTXCard, LTXParameters
from pipelines.ltx.guidance import guided_prediction
from pipelines.ltx.guidance_settings import Pass
from pipelines.ltx.outputs import DenoiseState, FinalLatents, ImageConditioning, TextConditioning
from pipelines.ltx.packing import causal_positions, in_order, latent_grid, unpack
from pipelines.ltx.sampler import Sampler
from pipelines.ltx.scheduler import scheduler_of
from pipelines.ltx.stg import without_self_attention
from pipelines.protocols import DenoiseInputs, Resources
from pipelines.weights.description import description_of
from pipelines.weights.load import load_network


class Denoiser:
    """The transformer and its scheduler's configuration."""

    def __init__(self, card: LTXCard, resources: Resources) -> None:
        placement = place(card, resources)  # first: it keeps diffusers from importing an xformers that cannot run
        from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

        self.transformer = load_network(card, "transformer", dtype=placement.dtype, device=placement.device)
        _check_blocks(card, len(self.transformer.transformer_blocks))
        if placement.attention != "native":
            self.transformer.set_attention_backend(placement.attention)
        folder = description_of(card, "scheduler")
        self.scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(str(folder), subfolder="scheduler")
        self.card = card
        self.placement = placement

    def warm_up(self) -> None:
        """Run the steps that differ in their forward passes at the default size, so that a request finds all ready."""
        parameters = self.card.default_parameters()
        length, width = parameters.max_sequence_length, self.transformer.config.caption_channels
        embeds = torch.zeros(1, length, width, dtype=self.placement.dtype)
        mask = torch.ones(1, length, dtype=torch.bool)
        inputs: DenoiseInputs[TextConditioning, ImageConditioning | None, FinalLatents] = DenoiseInputs(
            TextConditioning(embeds, mask, embeds, mask), image=None
        )
        state = self.begin(parameters, inputs).state
        kinds = [guidance.passes for guidance in parameters.guidance]
        first_of_kind = {kind: kinds.index(kind) for kind in kinds}
        for step in first_of_kind.values():
            self.begin(parameters, inputs, DenoiseState(state.latents, step, state.rng_state)).step()

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
        self.positions = (
            causal_positions(self.grid, compression, parameters.fps).to(self.device)  # [1, 3, S]
            if parameters.causal_positions
            else None  # the transformer's own, scaled by `rope_scale`
        )
        self.prompts = self._prompts(text)
        self.scheduler = scheduler_of(denoiser.scheduler, parameters, self.grid, self.device)
        self.timesteps: Tensor = self.scheduler.timesteps
        self.num_steps = len(self.timesteps)
        self.guidance = parameters.guidance  # of each step
        self.generator = torch.Generator("cpu").manual_seed(parameters.seed)
        # Drawn in any case: given latents come from the seed, also for a denoise that goes on from a later state.
        self.sampler, self.latents = self._begun(image)
        self.step_index = 0
        if state is not None:
            self.generator.set_state(state.rng_state)
            self.latents = in_order(state.latents.to(self.device), self.grid)
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
        latents = self.sampler.prepare(self.latents, timestep, self.generator)
        guidance = self.guidance[self.step_index]

        def forward(passes: Sequence[Pass]) -> Tensor:
            with without_self_attention(self.transformer, guidance.stg_blocks, passes.count("perturbed")):
                return self._predict(passes, latents, timestep)

        jointly, star = self.parameters.joint_guidance, self.parameters.cfg_star_rescale
        prediction = guided_prediction(guidance, forward, jointly=jointly, star=star)
        self.latents = self.sampler.advance(prediction, timestep, latents, self.generator)
        self.step_index += 1

    def result(self) -> FinalLatents:
        """The finished latents, on the CPU. Call it only after the last step."""
        assert self.step_index == self.num_steps, f"{self.num_steps - self.step_index} steps are left"
        return FinalLatents(unpack(self.latents, *self.grid).cpu(), self.generator.get_state())

    def _prompts(self, text: TextConditioning) -> dict[Pass, tuple[Tensor, Tensor]]:
        """What each pass is told: embeddings [1, L, D] and their mask [1, L], on the stage's device."""

        # A text encoder on a CPU may have computed in another dtype than the transformer here.
        def placed(embeds: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
            return embeds.to(self.device, self.dtype), mask.to(self.device)

        positive = placed(text.prompt_embeds, text.prompt_attention_mask)
        prompts: dict[Pass, tuple[Tensor, Tensor]] = {"positive": positive, "perturbed": positive}
        if self.parameters.guided:
            assert text.negative_prompt_embeds is not None, "guidance needs the negative prompt's embeddings"
            assert text.negative_prompt_attention_mask is not None, "guidance needs the negative prompt's mask"
            prompts["negative"] = placed(text.negative_prompt_embeds, text.negative_prompt_attention_mask)
        return prompts

    def _begun(self, image: ImageConditioning | None) -> tuple[Sampler, Tensor]:
        """The release's sampler, and the latents at the beginning."""
        shape = (1, self.transformer.config.in_channels, *self.grid)
        if not self.parameters.causal_positions:
            tokens = first_frame.drawn(shape, image, self.generator, self.device)
            return first_frame.FirstFrameSampler(self.scheduler, tokens, self.grid), tokens.latents
        tokens = conditions.drawn(shape, image, self.generator, self.device)
        noise_scale = self.parameters.image_cond_noise_scale
        return conditions.ConditionSampler(self.scheduler, tokens, noise_scale), tokens.latents

    def _predict(self, passes: Sequence[Pass], latents: Tensor, timestep: Tensor) -> Tensor:
        """The transformer's predictions for some passes in one batch, [B, S, C]."""
        batch = len(passes)
        embeds, masks = zip(*(self.prompts[each] for each in passes), strict=True)
        num_frames, height, width = self.grid
        # One pass keeps the tokens' order in memory, as in diffusers: a linear layer may round otherwise on a copy.
        tokens = torch.cat([latents] * batch) if batch > 1 else latents
        with self.transformer.cache_context("+".join(passes)):
            output: Tensor = self.transformer(
                hidden_states=tokens.to(self.dtype),
                encoder_hidden_states=torch.cat(embeds),
                timestep=self.sampler.timesteps(timestep, batch),
                encoder_attention_mask=torch.cat(masks),
                num_frames=num_frames,
                height=height,
                width=width,
                rope_interpolation_scale=self.rope_scale,
                video_coords=None if self.positions is None else self.positions.repeat(batch, 1, 1),
                return_dict=False,
            )[0]
        return self.sampler.prediction(output)


def _check_blocks(card: LTXCard, count: int) -> None:
    """Raise ConfigError when the card names a block that the transformer does not have."""
    if (last := max(card.defaults.perturbed_blocks, default=0)) >= count:
        raise ConfigError(f"{card.id}: stg_blocks names block {last}; the transformer has 0 to {count - 1}")
