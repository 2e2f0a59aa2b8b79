"""Which deployment runs which stage of which model: names that the graph, its config files and its scaling share."""

from __future__ import annotations

from collections.abc import Mapping

from pipelines.card import CommonCard
from pipelines.families import CLASSES
from pipelines.stages import Stage

APPLICATION = "kinoray"
"""What every config file calls the Serve application."""
ALWAYS = ("Api", "Conductor", "Publisher")
"""The deployments of every application, whatever its models."""
SHARED: tuple[Stage, ...] = (Stage.TEXT_ENCODE, Stage.IMAGE_ENCODE, Stage.DECODE)
"""Stages whose replicas several models may use, where they come from the same checkpoint."""


def deployment_names(cards: Mapping[str, CommonCard]) -> dict[str, dict[Stage, str]]:
    """The deployment of each stage of each model. It carries the model's name only where a single model uses it."""
    names: dict[str, dict[Stage, str]] = {model: {} for model in cards}
    for stage, kind in CLASSES.items():
        groups: dict[object, list[str]] = {}
        for model, card in sorted(cards.items()):  # the names must not hang on the order
            if stage in card.STAGES:
                groups.setdefault(card.shared_by(stage) if stage in SHARED else model, []).append(model)
        shared = 0
        for models in groups.values():
            name = f"{kind}-{models[0]}"
            if len(models) > 1:
                shared += 1
                name = kind if shared == 1 else f"{kind}-shared-{shared}"
            for model in models:
                names[model][stage] = name
    return names
