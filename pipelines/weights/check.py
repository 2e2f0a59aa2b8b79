"""Say what is wrong with a model's checkpoint before a GPU is touched, from the files' headers alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipelines.card import CheckpointCard, Component, ModelCard
from pipelines.errors import WeightsUnavailable
from pipelines.paths import ROOT
from pipelines.weights.description import description_of
from pipelines.weights.load import check_network
from pipelines.weights.located import missing


def check(card: ModelCard) -> None:
    """Check that the files of every network are exactly that network; fetches what is missing.

    Raises:
        WeightsUnavailable: the first thing that is wrong.
    """
    if isinstance(card, CheckpointCard):
        for component in card.all_components():
            check_component(card, component)


def problems(card: ModelCard) -> Iterator[str]:
    """What is wrong with those components that are on this machine. Fetches nothing."""
    if not isinstance(card, CheckpointCard):
        return
    for component in card.all_components():
        try:
            if is_here(card, component):
                check_component(card, component)
        except WeightsUnavailable as error:
            yield error.message


def is_here(card: CheckpointCard, component: Component) -> bool:
    """Whether there is something to check: a local path that exists, or all of the files in the hub's cache."""
    source = card.component_source(component)
    if source.repo is None:
        place = source.folder if source.file is None else Path(source.file)
        return place is not None and (ROOT / place).exists()
    return missing(card, component) is None


def check_component(card: CheckpointCard, component: Component) -> None:
    """Check one component. Raises WeightsUnavailable."""
    if component in card.networks():
        check_network(card, component)
    else:
        description_of(card, component)
