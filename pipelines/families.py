"""The families and their stages, by name, so that a process imports only the stage it runs.

A family is a package with up to four modules: `text` (TextEncoder), `image` (ImageEncoder), `denoise` (Denoiser) and
`decode` (VideoDecoder). Each class takes a card and a placement, loads only its own stage's weights, and has `warm_up`.
A seam that holds for every family: `encode(prompt or image, parameters)`, `begin(parameters, text, image, state)` with
`step` and `result`, and `chunks(latents, parameters)`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pipelines.catalogue import ModelCard
from pipelines.simulated.card import SimulatedCard
from pipelines.simulated.placement import Nowhere
from pipelines.stages import Stage

if TYPE_CHECKING:
    from pipelines.devices import Placement

CLASSES: dict[Stage, str] = {
    Stage.TEXT_ENCODE: "TextEncoder",
    Stage.IMAGE_ENCODE: "ImageEncoder",
    Stage.DENOISE: "Denoiser",
    Stage.DECODE: "VideoDecoder",
}
"""The stages that compute, and the class of each in every family, which is also its deployment's."""
_MODULES = {
    Stage.TEXT_ENCODE: "text", Stage.IMAGE_ENCODE: "image", Stage.DENOISE: "denoise", Stage.DECODE: "decode",
}  # fmt: skip


def place(card: ModelCard, *, gpu: bool, threads: int | None = None) -> Placement | Nowhere:
    """Where a stage of a model computes; see `pipelines.devices.place`."""
    if isinstance(card, SimulatedCard):
        return Nowhere()
    from pipelines import devices

    return devices.place(card, gpu=gpu, threads=threads)


def revision(card: ModelCard) -> str:
    """Which weights a model's denoiser has; see `pipelines.weights.revision`."""
    if isinstance(card, SimulatedCard):
        return "simulated"
    from pipelines import weights

    return weights.revision(card, card.STAGES[Stage.DENOISE][0])


def video(family: str) -> Any:
    """The module that makes a video's files of its frames, with `render` and `metadata_of`."""
    return import_module("pipelines.simulated.video" if family == "simulated" else "pipelines.video")


def outputs(family: str) -> Any:
    """The module of what a family's stages hand to each other: `DenoiseState`, `FinalLatents` and others."""
    return import_module(f"pipelines.{family}.outputs")


def load_stage(stage: Stage, card: ModelCard, placement: Placement | Nowhere) -> Any:
    """Load one stage of a model."""
    module = import_module(f"pipelines.{card.family}.{_MODULES[stage]}")
    return getattr(module, CLASSES[stage])(card, placement)
