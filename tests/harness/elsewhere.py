"""ltx-tiny, the demo model, on a card that takes its files from somewhere else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.card import CheckpointCard
from pipelines.catalogue import get_card, read_card
from pipelines.paths import ROOT

TINY = ROOT / "models" / "ltx-tiny"
VAE = "vae/diffusion_pytorch_model.safetensors"
"""One of its files."""


def card(
    source: Mapping[str, Any], components: Mapping[str, Mapping[str, Any]] | None = None, *, name: str = "m"
) -> CheckpointCard:
    """The model with the id `name` and these sources."""
    values = get_card("ltx-tiny").model_dump(mode="json")
    found = read_card({**values, "id": name, "source": source, "components": components or {}})
    assert isinstance(found, CheckpointCard)
    return found
