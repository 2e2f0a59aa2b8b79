"""Say what is wrong with a model's checkpoint before a GPU is touched, from the files' headers alone."""

from __future__ import annotations

from collections.abc import Iterator

from pipelines.card import CheckpointCard, Component, ModelCard
from pipelines.errors import WeightsUnavailable
from pipelines.weights.description import description_of
from pipelines.weights.hub import Snapshot, in_cache
from pipelines.weights.load import check_network
from pipelines.weights.located import places


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
    """Whether there is something to check that needs no hub: its cache has all that is to come from there.

    A local path must exist, but need not be whole: what it lacks is something to say.
    """
    local = card.component_source(component).path()
    if local is not None and not local.exists():
        return False
    try:
        needs = places(card, component).needs
    except WeightsUnavailable:
        return True  # a path that the card names beside that one is not there
    try:
        return all(isinstance(in_cache(need), Snapshot) for need in needs)
    except WeightsUnavailable:  # the commit that the cache knows lacks something; the branch may have it by now
        return False


def check_component(card: CheckpointCard, component: Component) -> None:
    """Check one component. Raises WeightsUnavailable."""
    if component in card.networks():
        check_network(card, component)
    else:
        description_of(card, component)
