"""Fetches what the models of a service lack on this machine, before any replica needs it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from cli.pins import pinned_card
from cli.service import StartFailed
from pipelines.card import ModelCard
from pipelines.errors import WeightsUnavailable
from pipelines.weights.download import RemoteFile
from pipelines.weights.hub import bytes_to_come, check_space
from pipelines.weights.prefetch import files_to_come, prefetch


def fetch_all(cards: Iterable[ModelCard], say: Callable[[str], None]) -> None:
    """Fetch what is missing of each model, so that no replica has to; say what is wrong with one, and go on.

    The disk must hold all that comes: a model that has no room beside those before it is not begun.

    Raises:
        StartFailed: nothing can be fetched or found of any model.
    """
    cards = list(cards)
    wrong: list[str] = []

    def note(error: WeightsUnavailable) -> None:
        say(error.message)
        wrong.append(error.message)

    chosen: list[ModelCard] = []
    coming: dict[str, Sequence[RemoteFile]] = {}  # by model
    for each in cards:
        try:
            card = pinned_card(each, say)
            if files := files_to_come(card):
                who = f"{card.id} (after {', '.join(coming)})" if coming else card.id
                check_space(who, bytes_to_come([*files, *(file for those in coming.values() for file in those)]))
                coming[card.id] = files
            chosen.append(card)
        except WeightsUnavailable as error:
            note(error)
    for card in chosen:
        try:
            prefetch(card)
        except WeightsUnavailable as error:
            note(error)
    if len(wrong) == len(cards):
        raise StartFailed(f"no model can be served: {'; '.join(dict.fromkeys(wrong))}")
