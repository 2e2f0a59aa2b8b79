"""The files that describe a component without weights: a tokenizer, a scheduler, a feature extractor."""

from __future__ import annotations

import json
from pathlib import Path

from pipelines.card import CheckpointCard, Component
from pipelines.errors import WeightsUnavailable
from pipelines.weights.foreign import BEGINNING, stand_in
from pipelines.weights.located import located


def description_of(card: CheckpointCard, component: Component) -> Path:
    """The diffusers folder that has a component's descriptions, each of which can be read; fetches it if need be.

    Raises:
        WeightsUnavailable: they are not here and cannot be fetched, or one of them is something else.
    """
    folder = located(card, component).folder
    for path in sorted((folder / component).iterdir()):
        if path.is_file():
            _check(path)
    return folder


def _check(path: Path) -> None:
    with path.open("rb") as file:
        beginning = file.read(BEGINNING)
    if path.suffix in (".json", ".model") and (instead := stand_in(beginning)) is not None:
        raise WeightsUnavailable(f"{path} {instead}")
    try:
        if path.suffix == ".json":
            json.loads(path.read_bytes())
        elif path.suffix == ".model":
            from sentencepiece import SentencePieceProcessor

            SentencePieceProcessor(model_proto=path.read_bytes())
    except (ValueError, RuntimeError) as error:
        raise WeightsUnavailable(f"{path} cannot be read ({error}): fetch it again") from error
