"""`kinoray config check`: a config file, and the checkpoints of the models that it serves."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from cli.pins import recorded_commits
from deployments.configuration.serve_config import load_config, served_cards
from deployments.configuration.settings import require_webhook_secret, webhook_secret
from pipelines.card import CheckpointCard, Component, ModelCard
from pipelines.errors import ConfigError
from pipelines.weights.check import is_here, problems
from pipelines.weights.located import missing
from pipelines.weights.pin import pin_known


def check_config_file(console: Console, path: Path) -> None:
    """Say that a config file is sound, and which weights could not be checked since they are not on this machine.

    Raises:
        ConfigError: what is wrong with the file, with the environment's webhook secret, or with checkpoints that are
            here.
    """

    def say(sentence: str) -> None:
        console.print(sentence, markup=False, soft_wrap=True)

    cards = served_cards(load_config(path))
    require_webhook_secret(webhook_secret())
    commits = recorded_commits(cards, say)
    cards = [pin_known(card, commits) for card in cards]
    wrong = list(dict.fromkeys(problem for card in cards for problem in problems(card)))
    if wrong:
        raise ConfigError(f"{path}: {'; '.join(wrong)}")
    console.print(f"{path} is sound", soft_wrap=True)
    for card in cards:
        for place, components in _absent(card).items():
            hint = "" if place.startswith("/") else f"; `./kinoray prefetch {card.id}` fetches and checks it"
            say(f"{card.id}: {place} is not on this machine: {', '.join(components)} not checked{hint}")


def _absent(card: ModelCard) -> dict[str, list[Component]]:
    """The components that are not here, by the path or repository that they are to come from."""
    absent: dict[str, list[Component]] = {}
    if isinstance(card, CheckpointCard):
        for component in card.all_components():
            if not is_here(card, component) and (lack := missing(card, component)) is not None:
                absent.setdefault(lack.place, []).append(component)
    return absent
