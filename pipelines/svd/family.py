"""What Stable Video Diffusion registers. No torch, before its stages are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.protocols import Family, Stages
from pipelines.svd.card import SVDCard, SVDFields, SVDParameters
from pipelines.weights.revision import revision_of

if TYPE_CHECKING:
    from pipelines.svd.outputs import DenoiseState, FinalLatents, ImageConditioning


def _stages() -> Stages[SVDCard, SVDParameters, None, ImageConditioning, DenoiseState, FinalLatents]:
    from pipelines.svd.stages import STAGES

    return STAGES


FAMILY = Family(
    name="svd",
    card=SVDCard,
    parameters=SVDParameters,
    fields=SVDFields,
    check=SVDCard.check,
    stages=_stages,
    revision=lambda card: revision_of(card, "unet"),
)
