"""Access to the families and their stages by name, so that a process imports only the stage it runs.

A family is a package with up to four modules: `text` (TextEncoder), `image` (ImageEncoder), `denoise` (Denoiser) and
`decode` (VideoDecoder). Each class takes a card and a placement, loads only its own stage's weights, and has `warm_up`.
Every family has the same interface: `encode(prompt or image, parameters)`, `begin(parameters, text, image, state)` with
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
"""The stages that compute, and the class of each in every family, which also names its deployment."""
_MODULES = {
    Stage.TEXT_ENCODE: "text", Stage.IMAGE_ENCODE: "image", Stage.DENOISE: "denoise", Stage.DECODE: "decode",
}  # fmt: skip


def place(card: ModelCard, *, gpu: bool, threads: int | None = None) -> Placement | Nowhere:
    """The placement of a model's stage; see `pipelines.devices.place`."""
    if isinstance(card, SimulatedCard):
        return Nowhere()
    from pipelines import devices

    return devices.place(card, gpu=gpu, threads=threads)


def revision(card: ModelCard) -> str:
    """The revision of a model's denoiser weights; see `pipelines.weights.revision`."""
    if isinstance(card, SimulatedCard):
        return "simulated"
    from pipelines import weights

    return weights.revision(card, card.STAGES[Stage.DENOISE][0])


def video(family: str) -> Any:
    """The module that makes a video's files from its frames, with `render` and `metadata_of`."""
    return import_module("pipelines.simulated.video" if family == "simulated" else "pipelines.video")


def outputs(family: str) -> Any:
    """The module of a family's stage outputs: `DenoiseState`, `FinalLatents` and others."""
    return import_module(f"pipelines.{family}.outputs")


def load_stage(stage: Stage, card: ModelCard, placement: Placement | Nowhere) -> Any:
    """Load one stage of a model."""
    module = import_module(f"pipelines.{card.family}.{_MODULES[stage]}")
    return getattr(module, CLASSES[stage])(card, placement)
