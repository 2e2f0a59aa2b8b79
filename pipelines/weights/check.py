"""Say what is wrong with a model's checkpoint before a GPU is touched, from the files' headers alone."""

from __future__ import annotations

from collections.abc import Iterator

from pipelines.card import CheckpointCard, Component, ModelCard
from pipelines.errors import WeightsUnavailable
from pipelines.weights.load import check_network
from pipelines.weights.located import located, missing


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
            if missing(card, component) is None:
                check_component(card, component)
        except WeightsUnavailable as error:
            yield error.message


def check_component(card: CheckpointCard, component: Component) -> None:
    """Check one component. Raises WeightsUnavailable."""
    if component in card.networks():
        check_network(card, component)
    else:
        located(card, component)
