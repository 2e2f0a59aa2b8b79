"""The stages of LTX-Video, for `pipelines.ltx.family`."""

from __future__ import annotations

from pipelines.ltx.card import LTXCard, LTXParameters
from pipelines.ltx.decode import VideoDecoder
from pipelines.ltx.denoise import Denoiser
from pipelines.ltx.image import ImageEncoder
from pipelines.ltx.outputs import DenoiseState, FinalLatents, ImageConditioning, TextConditioning
from pipelines.ltx.text import TextEncoder
from pipelines.protocols import Stages

STAGES: Stages[LTXCard, LTXParameters, TextConditioning, ImageConditioning | None, DenoiseState, FinalLatents] = Stages(
    text=TextEncoder,
    image=ImageEncoder,
    denoise=Denoiser,
    decode=VideoDecoder,
    state=DenoiseState,
    latents=FinalLatents,
)
