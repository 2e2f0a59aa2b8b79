"""`kinoray plan`: how large a cluster must be."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cli.job_store import measured_seconds
from cli.planning import plan
from deployments.configuration.names import deployment_names
from deployments.configuration.serve_config import load_config
from deployments.configuration.settings import load_settings
from pipelines.catalogue import get_card
from pipelines.errors import ConfigError
from pipelines.simulated.timings import measured
from pipelines.stages import Stage

PER = {"s": 1.0, "min": 60.0, "h": 3600.0, "day": 86400.0}


def run_plan(
    console: Console,
    *,
    rate: str,
    model: str,
    config: Path,
    gpu: str | None,
    seconds: list[str],
    busy: float,
    within_s: float | None,
    gpu_hour: float | None,
) -> None:
    """Print the plan. Raises ConfigError."""
    per_s = _rate(rate)
    gpus = _gpus(config, model)
    known = measured_seconds(model) if gpu is None else _on(gpu, model)
    stages = _stages(model)
    said = {**known, **_given(seconds, stages)}
    if missing := [stage for stage in stages if stage not in said]:
        raise ConfigError(
            f"no job of {model} has finished in this job store; name a GPU that was measured (--gpu), or say how long "
            "a stage takes: " + " ".join(f"--seconds {stage}=SECONDS" for stage in missing)
        )
    try:
        made = plan(per_s, {stage: said[stage] for stage in stages}, busy=busy, within_s=within_s)
    except ValueError as error:
        raise ConfigError(f"--within: {error}") from None
    table = Table("stage", "seconds", "replicas", "busy", "GPUs", title=f"{model} at {rate}")
    for stage in made.stages:
        share = f"{stage.utilisation(per_s):.0%}"
        used = f"{stage.replicas * gpus[stage.stage]:g}"
        table.add_row(stage.stage, f"{stage.seconds:.2f}", str(stage.replicas), share, used)
    console.print(table)
    total = sum(stage.replicas * gpus[stage.stage] for stage in made.stages)
    console.print(f"a video takes {made.p50_s:.1f} s, 95 % of them less than {made.p95_s:.1f} s")
    if gpu_hour is not None:
        cost = total * gpu_hour / 3600 / per_s
        console.print(f"{total:g} GPUs at {gpu_hour:g} an hour: {cost:.4f} for each video")


def _rate(text: str) -> float:
    """Parse a rate such as `2/min` into jobs per second. Raises ConfigError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)/(s|min|h|day)", text)
    if found is None or float(found[1]) == 0:
        raise ConfigError(f"--rate {text}: write videos per time, such as 2/min; the time is one of {', '.join(PER)}")
    return float(found[1]) / PER[found[2]]


def _on(gpu: str, model: str) -> dict[Stage, float]:
    """The seconds of each stage of the model's default video on a measured GPU. Raises ConfigError."""
    timings, parameters = measured(gpu, model), get_card(model).default_parameters()
    size = parameters.megapixels
    step_s = timings.step.seconds(size)
    passes = parameters.forward_passes / parameters.num_inference_steps
    return {
        _stages(model)[0]: timings.text.seconds(size),
        # The model's guidance may be another one than when its steps were measured.
        Stage.DENOISE: step_s / (timings.passes_per_step or passes) * parameters.forward_passes,
        Stage.DECODE: timings.decode.seconds(size),
    }


def _stages(model: str) -> list[Stage]:
    """The stages with their own replicas that every video of a model runs through."""
    card = get_card(model)
    optional = {Stage.IMAGE_ENCODE} if not card.NEEDS_IMAGE else set()
    return [stage for stage in Stage if stage in card.STAGES and stage not in optional]


def _given(seconds: list[str], stages: Collection[Stage]) -> dict[Stage, float]:
    """Parse the values of `--seconds`. Raises ConfigError."""
    given: dict[Stage, float] = {}
    for text in seconds:
        found = re.fullmatch(r"(\w+)=(\d+(?:\.\d+)?)", text)
        if found is None or found[1] not in stages:
            raise ConfigError(f"--seconds {text}: write STAGE=SECONDS; the stages are {', '.join(stages)}")
        given[Stage(found[1])] = float(found[2])
    return given


def _gpus(path: Path, model: str) -> Mapping[Stage, float]:
    """The GPUs of one replica of each stage, from a config file. Raises ConfigError."""
    (application,) = load_config(path)["applications"]
    names = deployment_names(load_settings(application.get("args") or {}).cards())
    if model not in names:
        raise ConfigError(f"{path} serves no model {model!r}; it serves {', '.join(names)}")
    options: dict[str, dict[str, Any]] = {
        each["name"]: each.get("ray_actor_options") or {} for each in application["deployments"]
    }
    gpus = {stage: float(options.get(name, {}).get("num_gpus", 0)) for stage, name in names[model].items()}
    first, *_ = _stages(model)
    if first is not Stage.IMAGE_ENCODE:  # each text encoder has an image encoder beside it, for requests with an image
        gpus[first] += gpus.get(Stage.IMAGE_ENCODE, 0.0)
    return gpus
