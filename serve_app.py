"""The whole service as one graph: `serve run configs/local.yaml` imports `build_app` from here.

    Api ──nudge──▶ Conductor ──▶ TextEncoder ──▶ Denoiser-MODEL ──▶ VideoDecoder-MODEL ──▶ Publisher
     └──────── job store ───────▶ ImageEncoder ──────▲

Hardware, replicas and autoscaling of each deployment are in the config file's `deployments`; what is bound here are the
defaults. Nothing here imports torch: the graph is built on a laptop in a second.
"""

from __future__ import annotations

from typing import Any

from ray.serve import Application

from deployments.api import Api
from deployments.conductor import Conductor
from deployments.denoiser import Denoiser
from deployments.encoders import ImageEncoder, TextEncoder
from deployments.publisher import Publisher
from deployments.settings import Settings, load_settings
from deployments.video_decoder import VideoDecoder
from pipelines.card import Leg
from pipelines.catalogue import ModelCard


def build_app(args: dict[str, Any]) -> Application:
    """The Serve application for the models that `args` names.

    Raises:
        ConfigError: a key of `args` is unknown or wrong, or a model is not in the catalogue.
    """
    settings = load_settings(args)
    cards = settings.cards()
    text = _shared_encoders(TextEncoder, "text", cards, settings)
    image = _shared_encoders(ImageEncoder, "image", cards, settings)
    legs = {
        model: {
            "text": text.get(model),
            "image": image.get(model),
            "denoiser": _bind(Denoiser, card, settings, name=f"Denoiser-{model}"),
            "decoder": _bind(VideoDecoder, card, settings, name=f"VideoDecoder-{model}"),
        }
        for model, card in cards.items()
    }
    conductor = _bind(Conductor, settings, legs, _bind(Publisher, settings))
    return _bind(Api, settings, conductor)


def _bind(deployment: Any, *args: Any, name: str | None = None) -> Application:
    """A node of the graph. Serve's decorators make deployments of the classes, which type checkers cannot see."""
    named = deployment if name is None else deployment.options(name=name)
    application: Application = named.bind(*args)
    return application


def _shared_encoders(
    deployment: Any, leg: Leg, cards: dict[str, ModelCard], settings: Settings
) -> dict[str, Application]:
    """One encoder per checkpoint, by model. It carries the model's name only when a single model uses it."""
    groups: dict[object, list[str]] = {}
    for model, card in cards.items():
        if leg not in card.LEGS:
            continue
        sources = [card.component_source(each) for each in card.LEGS[leg]]
        groups.setdefault((card.family, *sources, *sorted(card.dtype.items())), []).append(model)
    encoders = {}
    shared = 0
    for models in groups.values():
        name = f"{deployment.name}-{models[0]}"
        if len(models) > 1:
            shared += 1
            name = deployment.name if shared == 1 else f"{deployment.name}-shared-{shared}"
        encoders.update(dict.fromkeys(models, _bind(deployment, cards[models[0]], settings, name=name)))
    return encoders
