"""The times of stages: written on a card, or measured on a GPU and stored in `configs/gpus/NAME.yaml`."""

from __future__ import annotations

from typing import Annotated

import yaml
from pydantic import Field, ValidationError

from pipelines.errors import ConfigError
from pipelines.paths import ROOT
from pipelines.strict import StrictModel

GPUS = ROOT / "configs" / "gpus"

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Pace(StrictModel):
    """A duration: a constant plus a part that grows with the video's size."""

    fixed_s: Seconds = 0.0
    per_megapixel_s: Seconds = 0.0
    """Seconds for each million pixels of all frames together."""

    def seconds(self, megapixels: float) -> float:
        return self.fixed_s + self.per_megapixel_s * megapixels


class Timings(StrictModel):
    """The time that each stage takes."""

    load_s: Seconds = 0.0
    """The load time of each stage, before its replica is ready."""
    text: Pace
    """The time of all encoding."""
    step: Pace
    """The time of one denoising step."""
    passes_per_step: float | None = Field(default=None, ge=1)
    """The forward passes of the denoiser in that step, as it was measured: guidance makes them two or three.

    None means those of the model's default video.
    """
    decode: Pace


class Gpu(StrictModel):
    """The timings that `make bench-gpu` measured on one kind of GPU."""

    gpu: str
    models: dict[str, Timings]


def measured(gpu: str, model: str) -> Timings:
    """The measured times of a model's stages on a GPU.

    Args:
        gpu: the name of a file in `configs/gpus`, such as `h200`.

    Raises:
        ConfigError: this model has not been measured on this GPU.
    """
    path = GPUS / f"{gpu}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(each.stem for each in GPUS.glob("*.yaml")))
        raise ConfigError(f"no GPU {gpu!r} in {GPUS}; there are {known}. `make bench-gpu OUT={path}` measures another")
    try:
        models = Gpu.model_validate(yaml.safe_load(path.read_text())).models
    except (yaml.YAMLError, ValidationError) as error:
        raise ConfigError(f"{path}: {error}") from error
    if model not in models:
        raise ConfigError(f"{model} has not been measured on {gpu}; in {path} there are {', '.join(models)}")
    return models[model]
