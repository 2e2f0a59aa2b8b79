"""`kinoray prefetch`: models' weights onto this machine, before anything needs them."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from cli.pins import pinned_card
from pipelines.card import ModelCard
from pipelines.weights.check import check
from pipelines.weights.prefetch import prefetch_all
from pipelines.weights.remote import check_ahead


def run_prefetch(console: Console, model: str | None, config: Path | None) -> None:
    """Fetch a model, or every model that a Serve config file serves, print where it is, and check it by its headers.

    They come from the commits that the job store has pinned; what is fetched first is pinned here. The headers are read
    on the hub first, so that files that are no such model are refused before gigabytes have come.
    """

    def say(sentence: str) -> None:
        console.print(sentence, markup=False, soft_wrap=True)

    cards = [pinned_card(card, say, note=say) for card in _cards(model, config)]
    for each in prefetch_all(cards, check=check_ahead):
        commit = f", commit {each.located.commit}" if each.located.commit else ""
        say(f"{each.model}: {each.component}: {each.place} ({_size(each.size)}{commit})")
    for card in cards:
        check(card)  # a replica does so too: whoever starts one right away need not


def _cards(model: str | None, config: Path | None) -> list[ModelCard]:
    if config is None:
        from pipelines.catalogue import get_card

        assert model is not None
        return [get_card(model)]
    from deployments.configuration.serve_config import load_config, served_cards

    return served_cards(load_config(config))


def _size(count: int) -> str:
    """Bytes for people: gigabytes, of small files megabytes."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB"
