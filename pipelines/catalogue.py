"""The model catalogue: one YAML file per model in `configs/models/`, read without torch.

A card says where the weights are, which family runs them, in which dtype, and what a request may ask for.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from pipelines.card import ROOT
from pipelines.errors import ConfigError
from pipelines.ltx.card import LTXCard
from pipelines.simulated.card import SimulatedCard
from pipelines.svd.card import SVDCard

CATALOGUE = ROOT / "configs" / "models"

ModelCard = Annotated[LTXCard | SVDCard | SimulatedCard, Field(discriminator="family")]
"""One model, of any family."""

_CARD: TypeAdapter[ModelCard] = TypeAdapter(ModelCard)


def read_card(data: Any) -> ModelCard:
    """A card from the plain values of a YAML file. Raises ValidationError."""
    return _CARD.validate_python(data)


def load_card(path: Path) -> ModelCard:
    """Read one card.

    Raises:
        ConfigError: the file is not YAML, or a key is missing, unknown or has a wrong value.
    """
    try:
        card = read_card(yaml.safe_load(path.read_text()))
    except (yaml.YAMLError, ValidationError) as error:
        raise ConfigError(f"{path}: {error}") from error
    if card.id != path.stem:
        raise ConfigError(f"{path}: id is {card.id!r}, the file's name says {path.stem!r}; make them the same")
    return card


@cache
def load_catalogue(folder: Path = CATALOGUE) -> dict[str, ModelCard]:
    """Every card in a folder, by id."""
    return {card.id: card for card in map(load_card, sorted(folder.glob("*.yaml")))}


def get_card(model: str) -> ModelCard:
    """A card by its id.

    Raises:
        ConfigError: the catalogue has no such model.
    """
    cards = load_catalogue()
    if model not in cards:
        raise ConfigError(f"no model {model!r} in {CATALOGUE}; there are {', '.join(cards)}")
    return cards[model]
