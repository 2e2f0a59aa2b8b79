"""What LTX-Video registers. No torch, before its stages are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.ltx.card import LTXCard, LTXFields, LTXParameters
from pipelines.protocols import Family, Stages
from pipelines.weights.revision import revision_of

if TYPE_CHECKING:
    from pipelines.ltx.outputs import DenoiseState, FinalLatents, ImageConditioning, TextConditioning


def _stages() -> Stages[LTXCard, LTXParameters, TextConditioning, ImageConditioning | None, DenoiseState, FinalLatents]:
    from pipelines.ltx.stages import STAGES

    return STAGES


FAMILY = Family(
    name="ltx",
    card=LTXCard,
    parameters=LTXParameters,
    fields=LTXFields,
    check=LTXCard.check,
    stages=_stages,
    revision=lambda card: revision_of(card, "transformer"),
)
