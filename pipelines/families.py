"""The families and their legs, by name, so that a process imports only the leg it runs.

A family is a package with four modules: `text` (TextEncoder), `image` (ImageEncoder), `denoise` (Denoiser) and `decode`
(VideoDecoder). Each class takes a card and a placement, loads only its own leg's weights, and has `warm_up`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Literal

from pipelines.catalogue import ModelCard
from pipelines.devices import Placement

Leg = Literal["text", "image", "denoise", "decode"]

CLASSES: dict[Leg, str] = {
    "text": "TextEncoder",
    "image": "ImageEncoder",
    "denoise": "Denoiser",
    "decode": "VideoDecoder",
}


def load_leg(leg: Leg, card: ModelCard, placement: Placement) -> Any:
    """Load one leg of a model."""
    module = import_module(f"pipelines.{card.family}.{leg}")
    return getattr(module, CLASSES[leg])(card, placement)
