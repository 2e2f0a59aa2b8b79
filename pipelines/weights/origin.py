"""Where a model's weights come from, as people read it."""

from __future__ import annotations

from pathlib import Path

from pipelines.card import WEIGHTLESS, CheckpointCard, Component, ModelCard, Source
from pipelines.weights.pin import MAIN, Commits, hub_config, is_commit

SHOWN = ("folder", "repo", "revision", "variant", "file", "config")


def origins(card: ModelCard, commits: Commits) -> dict[Component, dict[str, str]]:
    """The source of each component: what the card says of it, and the `commit` if it is known."""
    if not isinstance(card, CheckpointCard):
        return {}
    return {component: _origin(card, component, commits) for component in card.all_components()}


def download_gb(card: ModelCard) -> float | None:
    """What is fetched for a model, in 10^9 bytes, where its card says so."""
    return card.download_gb if isinstance(card, CheckpointCard) else None


def _origin(card: CheckpointCard, component: Component, commits: Commits) -> dict[str, str]:
    source = card.component_source(component)
    if source.file is not None and component in WEIGHTLESS:  # no single file has a tokenizer or a scheduler
        config = source.config or ""
        named = hub_config(config)
        source = Source(folder=Path(config)) if named is None else Source(repo=named[0], revision=named[1])
    said = {name: str(value) for name in SHOWN if (value := getattr(source, name)) is not None}
    if source.repo is not None:
        pinned = source.revision if is_commit(source.revision) else commits.get((source.repo, source.revision or MAIN))
        if pinned is not None:
            said["commit"] = pinned
    return said
