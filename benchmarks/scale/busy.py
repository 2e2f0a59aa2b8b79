"""Row 1: how busy denoisers are while jobs wait. Row 5: stages on GPUs of their own against all of them on each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import psutil

from benchmarks.scale.cpu import CONDUCTOR, cpu_seconds
from benchmarks.scale.row import Row
from benchmarks.scale.world import Model, World, fixed, run_world, warm
from jobs.allocation import hold_denoisers
from pipelines.stages import Stage
from tests.harness.processes import until

STEP_S = 0.5
LONG, SHORT = 40, 10
"""Steps of a video of 20 s, and of one of 5 s: a distilled model on a fast card."""
SIZES = (32, 8)
CASES = ((LONG, 7, 0.98), (SHORT, 13, 0.95))
"""Steps of a video, videos for each denoiser, and the share of its time that it has to be busy."""


def utilisation() -> Iterator[Row]:
    """Videos of 20 s and of 5 s, as many as keep every denoiser at work seven and thirteen times."""
    for denoisers in SIZES:
        model = Model("scale", 0.1, STEP_S, 0.5, encoders=2, denoisers=denoisers, decoders=denoisers // 5 + 1)
        with run_world(fixed([model]), [model], head_gpus=denoisers) as world:
            for steps, each, least in CASES:
                request = {"model": model.name, "num_inference_steps": steps}
                warm(world, model, [request])
                before_s = cpu_seconds(world.cluster.pid, CONDUCTOR)
                waiting = _queue(world, model, [request] * each * denoisers)
                psutil.cpu_percent()
                took = _makespan(world.completed(waiting))
                cores, ideal = psutil.cpu_percent(), each * steps * STEP_S
                a_video = (cpu_seconds(world.cluster.pid, CONDUCTOR) - before_s) / len(waiting)
                yield Row(
                    f"{denoisers} denoisers, {each * denoisers} videos of {steps * STEP_S:.0f} s: busy",
                    f">= {least:.0%} (of {ideal:.0f} s)",
                    f"{ideal / took:.1%} ({took:.1f} s); the machine's cores: {cores:.0f}%; "
                    f"the conductors: {1000 * a_video:.0f} CPU ms a video",
                    ideal / took >= least,
                )


def _queue(world: World, model: Model, requests: Sequence[Mapping[str, Any]]) -> list[str]:
    """Fill the queue before any of it gets a denoiser: how fast a client can ask is not what is measured."""

    def encoded() -> bool:
        return sum(row.stage == Stage.DENOISE for row in world.rows(ids)) >= model.denoisers

    with world.database.write() as connection:
        hold_denoisers(connection, model.name)
        ids = world.submit(requests)
        until(encoded, "a job waits for every denoiser", 120, 0.5)
    return ids


def _makespan(rows: Sequence[Any]) -> float:
    """Seconds from the first denoise's start to the last one's end; waits between later stages count as denoising."""
    after = [sum(row.stage_seconds[stage] for stage in ("decode", "publish")) for row in rows]
    ends = [row.completed_at - each for row, each in zip(rows, after, strict=True)]
    return max(ends) - min(end - row.stage_seconds["denoise"] for row, end in zip(rows, ends, strict=True))


GB = 1e9
WEIGHTS: dict[str, Mapping[str, float]] = {
    "like LTX-Video 0.9.5": {"text": 9.5 * GB, "denoise": 3.8 * GB, "decode": 2.5 * GB},
    "like Wan 2.1 14B": {"text": 11.4 * GB, "denoise": 28.6 * GB, "decode": 0.3 * GB},
}
"""Bytes of each stage in bfloat16, two for each of the parameters that the models' authors state."""
SECONDS: dict[str, Mapping[str, float]] = {
    "like LTX-Video 0.9.5": {"text": 0.1, "denoise": 10.0, "decode": 1.0},
    "like Wan 2.1 14B": {"text": 0.05, "denoise": 7.5, "decode": 0.25},
}
"""Of one video on one GPU: round numbers, short for the benchmark's sake; only their ratios matter. Not measured."""


def split_against_fused() -> Iterator[Row]:
    """The same GPUs twice: each with every stage, and all but one as denoisers with the other stages on the last."""
    # As many videos as all GPUs can share evenly, on either side.
    cases = [("like LTX-Video 0.9.5", 8, 56), ("like Wan 2.1 14B", 8, 56), ("like LTX-Video 0.9.5", 2, 6)]
    models: list[tuple[Model, Model]] = []
    for place, (name, gpus, _) in enumerate(cases):
        s = SECONDS[name]
        steps = round(s["denoise"] / STEP_S)
        split = Model(f"split-{place}", s["text"], STEP_S, s["decode"], 1, gpus - 1, 1)
        # All stages of a job keep its GPU busy: to the service that is one long denoise.
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
