"""Row 1: how busy 32 denoisers are while jobs wait. Row 5: legs on GPUs of their own against all of them on each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.scale.row import Row
from benchmarks.scale.world import Model, elapsed, fixed, run_world, warm

STEP_S = 0.5
DENOISERS = 32
LONG, SHORT = 40, 10
"""Steps of a video of 20 s, and of one of 5 s: a distilled model on a fast card."""


def utilisation() -> Iterator[Row]:
    """224 videos of 20 s and 416 of 5 s, all in the queue from the start."""
    model = Model("scale", 0.1, STEP_S, 0.5, encoders=2, denoisers=DENOISERS, decoders=6)
    with run_world(fixed([model]), [model], head_gpus=DENOISERS) as world:
        for steps, count, least in ((LONG, 224, 0.98), (SHORT, 416, 0.95)):
            request = {"model": model.name, "num_inference_steps": steps}
            warm(world, model, [request])
            took = elapsed(world.completed(world.submit([request] * count)))
            ideal = math.ceil(count / DENOISERS) * steps * STEP_S
            yield Row(
                f"{DENOISERS} denoisers, {count} videos of {steps * STEP_S:.0f} s: busy",
                f">= {least:.0%} (of {ideal:.0f} s)", f"{ideal / took:.1%} ({took:.1f} s)", ideal / took >= least,
            )  # fmt: skip


GB = 1e9
WEIGHTS: dict[str, Mapping[str, float]] = {
    "like LTX-Video 0.9.5": {"text": 9.5 * GB, "denoise": 3.8 * GB, "decode": 2.5 * GB},
    "like Wan 2.1 14B": {"text": 11.4 * GB, "denoise": 28.6 * GB, "decode": 0.3 * GB},
}
"""Bytes of each leg in bfloat16, two for each of the parameters that the models' authors state."""
SECONDS: dict[str, Mapping[str, float]] = {
    "like LTX-Video 0.9.5": {"text": 0.1, "denoise": 10.0, "decode": 1.0},
    "like Wan 2.1 14B": {"text": 0.2, "denoise": 30.0, "decode": 1.5},
}
"""Of one video on one GPU: round numbers in ratios that users report, not measurements."""


def split_against_fused() -> Iterator[Row]:
    """The same GPUs twice: each with every leg, and all but one as denoisers with the other legs on the last."""
    cases = [("like LTX-Video 0.9.5", 8, 48), ("like Wan 2.1 14B", 8, 24), ("like LTX-Video 0.9.5", 2, 8)]
    models: list[tuple[Model, Model]] = []
    for place, (name, gpus, _) in enumerate(cases):
        s = SECONDS[name]
        steps = round(s["denoise"] / STEP_S)
        split = Model(f"split-{place}", s["text"], STEP_S, s["decode"], 1, gpus - 1, 1)
        # All legs of a job keep its GPU busy: to the relay that is one long denoise.
        fused = Model(f"fused-{place}", 0, sum(s.values()) / steps, 0, 1, gpus, 1)
        models.append((split, fused))
    every = [model for pair in models for model in pair]
    with run_world(fixed(every), every, head_gpus=sum(model.denoisers for model in every)) as world:
        for (name, gpus, count), pair in zip(cases, models, strict=True):
            request: dict[str, Any] = {"num_inference_steps": round(SECONDS[name]["denoise"] / STEP_S)}
            a_minute = []
            for model in pair:
                warm(world, model, [{"model": model.name, "num_inference_steps": 1}])
                rows = world.completed(world.submit([{"model": model.name, **request}] * count))
                first, last = min(row.started_at for row in rows), max(row.completed_at for row in rows)
                a_minute.append(60 * count / (last - first))
            memory = WEIGHTS[name]
            largest = max(memory["denoise"], memory["text"] + memory["decode"]) / GB
            yield Row(
                f"{name}, {gpus} GPUs, {count} videos: split against fused",
                "none",
                f"{a_minute[0]:.1f} against {a_minute[1]:.1f} videos a minute ({a_minute[0] / a_minute[1]:.2f}); "
                f"weights on a GPU: at most {largest:.1f} against {sum(memory.values()) / GB:.1f} GB",
                None,
            )  # fmt: skip
