"""Stage 2: denoising steps that only take time."""

from __future__ import annotations

import time

import numpy as np

from pipelines.protocols import DenoiseInputs
from pipelines.simulated.card import SimulatedCard, SimulatedParameters
from pipelines.simulated.outputs import DenoiseState, FinalLatents, TextConditioning
from pipelines.simulated.stage import SimulatedStage


class Denoiser(SimulatedStage):
    """A simulated denoiser. Each step takes `timings.step`."""

    def begin(
        self,
        parameters: SimulatedParameters,
        inputs: DenoiseInputs[TextConditioning, None, FinalLatents],
        state: DenoiseState | None = None,
    ) -> DenoiseRun:
        """Start a denoise, or resume one from its state."""
        assert inputs.latents is None, "the family has one pass"
        return DenoiseRun(self.card, parameters, state)


class DenoiseRun:
    """One video's denoise. Call `step` until `step_index` reaches `num_steps`, then take `result`."""

    def __init__(self, card: SimulatedCard, parameters: SimulatedParameters, state: DenoiseState | None) -> None:
        self.num_steps = parameters.num_inference_steps
        self.step_index = 0 if state is None else state.step
        self._step_s = card.timings.step.seconds(parameters.megapixels)
        if state is None:
            ratio = card.compression
            frames = (parameters.num_frames - 1) // ratio.temporal + 1
            rows, columns = parameters.height // ratio.spatial, parameters.width // ratio.spatial
            self._latents = np.zeros((1, card.latent_channels, frames, rows, columns), np.float32)
        else:
            self._latents = state.latents

    @property
    def state(self) -> DenoiseState:
        return DenoiseState(self._latents, self.step_index)

    def step(self) -> None:
        time.sleep(self._step_s)
        self.step_index += 1

    def result(self) -> FinalLatents:
        return FinalLatents(self._latents)
