"""The model catalogue: one YAML file per model in `configs/models/`, read without torch.

A card names its family, which validates it (`pipelines.families`). It gives the location of the weights, the dtype and
the limits of a request. The environment variable `KINORAY_MODELS` names a folder, present on every node, with the
operator's own cards.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import yaml
from pydantic import ValidationError

from pipelines.card import ModelCard
from pipelines.errors import ConfigError, InvalidRequest
from pipelines.families import families, graph_of
from pipelines.paths import ROOT
from pipelines.wrong_values import all_wrong

CATALOGUE = ROOT / "configs" / "models"


def read_card(data: object) -> ModelCard:
    """Build a card from the plain values of a YAML file.

    Raises:
        ValidationError: a key is missing, unknown or has a wrong value.
        ConfigError: there is no such family.
    """
    name = data.get("family") if isinstance(data, dict) else None
    if name not in families():
        known = ", ".join(families())
        raise ConfigError(
            f"family must be one of {known}; it is {name!r}. Is the package that registers it installed here?"
        )
    return families()[name].card.model_validate(data)


def load_card(path: Path) -> ModelCard:
    """Read one card, and check it as a whole.

    Raises:
        ConfigError: the file is not YAML, a key is missing, unknown or has a wrong value, or no job can be made of it.
    """
    card = _read(path)
    try:
        _check(card)
    except ConfigError:
        raise  # of a family's request fields, and of no card
    except InvalidRequest as error:
        raise ConfigError(f"{path}: the card's own defaults are refused: {error}") from error
    except Exception as error:  # a family's code may be somebody else's
        cause = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{path}: the family {card.family} cannot make a job of the defaults: {cause}") from error
    return card


def _read(path: Path) -> ModelCard:
    try:
        card = read_card(yaml.safe_load(path.read_text()))
    except ValidationError as error:
        raise ConfigError(f"{path}: {_problems(error)}") from error
    except (yaml.YAMLError, ConfigError) as error:
        raise ConfigError(f"{path}: {error}") from error
    if card.id != path.stem:
        raise ConfigError(f"{path}: id is {card.id!r}, the file's name says {path.stem!r}; make them the same")
    return card


def _problems(error: ValidationError) -> str:
    """What is wrong with the keys of a card, one clause for each."""
    kinds = {family.card.__name__: family.card for family in families().values()}
    return "; ".join(all_wrong(error, kinds.get(error.title)))


def _check(card: ModelCard) -> None:
    """Make a request of the card's own defaults, and its graphs: what is wrong here would be wrong for every client."""
    from pipelines.requests import GenerationRequest, resolve, said_by

    prompt = "a prompt" if card.TAKES_PROMPT else None
    request = GenerationRequest.model_validate({**said_by(card.defaults.model_dump()), "prompt": prompt})
    parameters = resolve(request, card, has_image=card.NEEDS_IMAGE)
    for has_image in {card.NEEDS_IMAGE, card.takes_image}:
        graph_of(card, parameters, has_image)
    for stage in card.STAGES:
        hash(card.shared_by(stage))


def folders() -> list[Path]:
    """The folders with cards: Kinoray's own, and the operator's."""
    own = os.environ.get("KINORAY_MODELS")
    return [CATALOGUE, Path(own)] if own else [CATALOGUE]


@cache
def load_catalogue() -> dict[str, ModelCard]:
    """Every card, by id.

    Raises:
        ConfigError: a card is wrong, two have the same id, or the operator's folder does not exist.
    """
    cards: dict[str, ModelCard] = {}
    families()  # first, so that what is wrong with them is not said of a card
    if missing := [folder for folder in folders() if not folder.is_dir()]:
        raise ConfigError(f"KINORAY_MODELS: there is no folder {missing[0]}")
    for path in (path for folder in folders() for path in sorted(folder.glob("*.yaml"))):
        card = load_card(path)
        if card.id in cards:
            raise ConfigError(f"{path}: the catalogue has a model {card.id!r} already; choose another id")
        cards[card.id] = card
    return cards


def read_anew(model: str) -> ModelCard:
    """Read one card again from its file; `get_card` returns a cached one.

    The autoscaling does so twice a second, so this does not check the card as a whole again.

    Raises:
        ConfigError: there is no such file, or it is wrong.
    """
    for path in (folder / f"{model}.yaml" for folder in folders()):
        if path.is_file():
            return _read(path)
    return get_card(model)  # its error lists the models


def get_card(model: str) -> ModelCard:
    """Look up a card by its id.

    Raises:
        ConfigError: the catalogue has no such model.
    """
    cards = load_catalogue()
    if model not in cards:
        where = " or ".join(map(str, folders()))
        raise ConfigError(f"no model {model!r} in {where}; there are {', '.join(cards)}")
    return cards[model]
