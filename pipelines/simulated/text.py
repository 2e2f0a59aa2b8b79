"""Stage 1: a prompt to zeros, after the time that encoding takes."""

from __future__ import annotations

import time

import numpy as np

from pipelines.simulated.card import SimulatedParameters
from pipelines.simulated.outputs import TextConditioning
from pipelines.simulated.stage import SimulatedStage


class TextEncoder(SimulatedStage):
    """A simulated text encoder. Encoding takes `timings.text`."""

    def truncates(self, prompt: str, parameters: SimulatedParameters) -> bool:  # noqa: ARG002 it reads none
        return False

    def encode(self, prompt: str, parameters: SimulatedParameters) -> TextConditioning:  # noqa: ARG002
        time.sleep(self.card.timings.text.seconds(parameters.megapixels))
        return TextConditioning(np.zeros((1, *self.card.prompt_shape), np.float16))
