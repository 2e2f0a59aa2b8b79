"""The whole service as one graph: `serve run configs/local.yaml` imports `build_app` from here.

    Api ──notify─▶ Conductor ──▶ TextEncoder ──▶ Denoiser-MODEL ──▶ VideoDecoder-MODEL ──▶ Publisher
     └──────── job store ───────▶ ImageEncoder ──────▲

The config file's `deployments` set each deployment's hardware, replicas and autoscaling; this module binds the
defaults. It does not import torch, so a laptop builds the graph in a second.
"""

from __future__ import annotations

from typing import Any

from ray.serve import Application

from deployments.api import Api
from deployments.conductor import Conductor
from deployments.configuration.names import deployment_names
from deployments.configuration.settings import load_settings
from deployments.denoiser import Denoiser
from deployments.encoders import ImageEncoder, TextEncoder
from deployments.publisher import Publisher
from deployments.video_decoder import VideoDecoder
from pipelines.stages import Stage

STAGES: dict[Stage, Any] = {
    Stage.TEXT_ENCODE: TextEncoder,
    Stage.IMAGE_ENCODE: ImageEncoder,
    Stage.DENOISE: Denoiser,
    Stage.DECODE: VideoDecoder,
}


def build_app(args: dict[str, Any]) -> Application:
    """The Serve application for the models that `args` names.

    Raises:
        ConfigError: a key of `args` is unknown or wrong, or a model is not in the catalogue.
    """
    settings = load_settings(args)
    cards = settings.cards()
    bound: dict[str, Application] = {}
    stages: dict[str, dict[Stage, Application]] = {}
    for model, names in deployment_names(cards).items():
        for stage, name in names.items():
            if name not in bound:  # else another model with the same checkpoint has bound it
                bound[name] = _bind(STAGES[stage], cards[model], settings, name=name)
        stages[model] = {stage: bound[name] for stage, name in names.items()}
    conductor = _bind(Conductor, settings, stages, _bind(Publisher, settings))
    return _bind(Api, settings, conductor)


def _bind(deployment: Any, *args: Any, name: str | None = None) -> Application:
    """A node of the graph. Serve's decorators turn the classes into deployments, which type checkers cannot see."""
    named = deployment if name is None else deployment.options(name=name)
    application: Application = named.bind(*args)
    return application
