"""Names the deployment of each stage of each model. The graph, the config files and the autoscaling share the names."""

from __future__ import annotations

from collections.abc import Mapping

from pipelines.card import ModelCard
from pipelines.stages import Stage

APPLICATION = "kinoray"
"""The Serve application's name in every config file."""
ALWAYS = ("Api", "Conductor", "Publisher")
"""The deployments of every application, whatever its models."""
DEPLOYMENTS: dict[Stage, str] = {
    Stage.TEXT_ENCODE: "TextEncoder",
    Stage.IMAGE_ENCODE: "ImageEncoder",
    Stage.DENOISE: "Denoiser",
    Stage.DECODE: "VideoDecoder",
}
"""The stages that compute, and the first part of the names of their deployments."""
SHARED: tuple[Stage, ...] = (Stage.TEXT_ENCODE, Stage.IMAGE_ENCODE, Stage.DECODE)
"""Stages whose replicas several models may share, if they use the same checkpoint."""


def deployment_names(cards: Mapping[str, ModelCard]) -> dict[str, dict[Stage, str]]:
    """The deployment of each stage of each model. Its name contains the model's only if a single model uses it."""
    names: dict[str, dict[Stage, str]] = {model: {} for model in cards}
    for stage, kind in DEPLOYMENTS.items():
        groups: dict[object, list[str]] = {}
        for model, card in sorted(cards.items()):  # the names must not depend on the order
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
