"""What an LTX-Video file says about its own release, held against the card. No torch.

From 0.9.0 on the makers' single files carry a JSON in their metadata: how positions in time are counted, the schedule,
and for distilled models the noise levels they were trained on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.ltx.card import LTXDefaults
from pipelines.ltx.schedule import Schedule

SAMPLERS: Mapping[str, Schedule] = {"Uniform": "uniform", "LinearQuadratic": "linear-quadratic"}
NEAR = 2e-3
"""How far a noise level of a card may be from a trained one: the files round theirs."""


def contradiction(defaults: LTXDefaults, metadata: Mapping[str, str]) -> str | None:
    """The first point in which a file's metadata and a card differ, the file's value first; None if they agree.

    Args:
        metadata: of a safetensors file. What it does not say cannot contradict.
    """
    return next(_contradictions(defaults, _config(metadata)), None)


def _contradictions(defaults: LTXDefaults, config: Mapping[str, Any]) -> Iterator[str]:
    transformer, scheduler = _part(config, "transformer"), _part(config, "scheduler")
    causal = transformer.get("causal_temporal_positioning")
    if isinstance(causal, bool) and causal != defaults.causal_positions:
        yield f"causal_temporal_positioning is {causal}, causal_positions is {defaults.causal_positions}"
    sampler = scheduler.get("sampler")
    if sampler is not None and sampler not in SAMPLERS:
        yield f"sampler is {sampler}, schedule can only be {' or '.join(SAMPLERS.values())}"
    elif sampler is not None and SAMPLERS[sampler] != defaults.schedule and not defaults.timesteps:
        yield f"sampler is {sampler}, schedule is {defaults.schedule}"
    allowed = config.get("allowed_inference_steps")
    if isinstance(allowed, list) and allowed:
        if defaults.timesteps is None:
            yield f"allowed_inference_steps are {allowed}, timesteps is not set"
        for timestep in defaults.timesteps or ():
            if min(abs(timestep / 1000 - level) for level in allowed) > NEAR:
                yield f"allowed_inference_steps are {allowed}, timesteps has {timestep:g} / 1000"


def _config(metadata: Mapping[str, str]) -> Mapping[str, Any]:
    try:
        config = json.loads(metadata.get("config", "{}"))
    except ValueError:
        return {}  # not the makers' own
    return config if isinstance(config, dict) else {}


def _part(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = config.get(name)
    return part if isinstance(part, dict) else {}
