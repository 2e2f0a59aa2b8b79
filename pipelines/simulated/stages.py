"""The stages of the simulated family, for `pipelines.simulated.family`."""

from __future__ import annotations

from pipelines.protocols import Stages
from pipelines.simulated.card import SimulatedCard, SimulatedParameters
from pipelines.simulated.decode import VideoDecoder
from pipelines.simulated.denoise import Denoiser
from pipelines.simulated.outputs import DenoiseState, FinalLatents, TextConditioning
from pipelines.simulated.text import TextEncoder

STAGES: Stages[SimulatedCard, SimulatedParameters, TextConditioning, None, DenoiseState, FinalLatents] = Stages(
    text=TextEncoder,
    denoise=Denoiser,
    decode=VideoDecoder,
    state=DenoiseState,
    latents=FinalLatents,
)
