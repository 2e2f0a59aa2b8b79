"""What the simulated family registers. Nothing in it imports torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pipelines.output import Output, RenderedVideo, metadata_of
from pipelines.protocols import Audio, Family, Stages
from pipelines.simulated.card import SimulatedCard, SimulatedParameters

if TYPE_CHECKING:
    from pipelines.protocols import Frame
    from pipelines.simulated.outputs import DenoiseState, FinalLatents, TextConditioning


def _stages() -> Stages[SimulatedCard, SimulatedParameters, TextConditioning, None, DenoiseState, FinalLatents]:
    from pipelines.simulated.stages import STAGES

    return STAGES


def _metadata(model: str, parameters: SimulatedParameters) -> dict[str, object]:
    """The file's metadata, without a seed: the file is the same for every seed."""
    return {**metadata_of(model, parameters), "seed": None, "simulated": True}


def _render(
    frames: Iterable[Frame | Audio],
    parameters: SimulatedParameters,
    metadata: dict[str, object],
    output: Output,
    *,
    threads: int,
) -> RenderedVideo:
    from pipelines.simulated.video import render

    return render(frames, parameters, metadata, output, threads=threads)


FAMILY = Family(
    name="simulated",
    card=SimulatedCard,
    parameters=SimulatedParameters,
    stages=_stages,
    revision=lambda _: "simulated",
    metadata=_metadata,
    render=_render,
)
