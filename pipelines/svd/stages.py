"""The stages of Stable Video Diffusion, for `pipelines.svd.family`."""

from __future__ import annotations

from pipelines.protocols import Stages
from pipelines.svd.card import SVDCard, SVDParameters
from pipelines.svd.decode import VideoDecoder
from pipelines.svd.denoise import Denoiser
from pipelines.svd.image import ImageEncoder
from pipelines.svd.outputs import DenoiseState, FinalLatents, ImageConditioning

STAGES: Stages[SVDCard, SVDParameters, None, ImageConditioning, DenoiseState, FinalLatents] = Stages(
    image=ImageEncoder,
    denoise=Denoiser,
    decode=VideoDecoder,
    state=DenoiseState,
    latents=FinalLatents,
)
