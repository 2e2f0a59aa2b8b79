"""Row 4: previews that come among long videos."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from benchmarks.scale.row import Row
from benchmarks.scale.world import Model, World, fixed, run_world, waited, warm

STEP_S = 0.5
PREVIEW_S, LONG_S, LONG_SHARE = 5.0, 60.0, 0.2
DENOISERS, OFFERED = 8, 0.7
JOBS = 90
SEED = 7


def previews() -> Iterator[Row]:
    """How long previews wait, with preemption and without."""
    model = Model("scale", 0.1, STEP_S, 0.5, encoders=1, denoisers=DENOISERS, decoders=2)
    bound = 1.5 * PREVIEW_S
    for after_s in (3.0, None):
        with run_world(fixed([model], preempt_after_s=after_s), [model], head_gpus=DENOISERS) as world:
            warm(world, model, [{"model": model.name, "num_inference_steps": _steps(s)} for s in (PREVIEW_S, 1.0)])
            short, long = _offer(world, model)
        waits = sorted(waited(row) for row in short)
        p95 = statistics.quantiles(waits, n=20)[-1]
        stretched = statistics.mean((row.completed_at - row.created_at) / LONG_S for row in long)
        yield Row(
            f"{len(short)} previews of {PREVIEW_S:.0f} s among {len(long)} videos of {LONG_S:.0f} s, "
            f"{OFFERED:.0%} load, " + ("no preemption" if after_s is None else f"`preempt_after_s: {after_s:.0f}`"),
            "none" if after_s is None else f"p95 wait <= {bound} s",
            f"wait: p50 {statistics.median(waits):.1f} s, p95 {p95:.1f} s, most {waits[-1]:.1f} s; a long one takes "
            f"{stretched:.2f} times its time",
            None if after_s is None else p95 <= bound,
        )


def _offer(world: World, model: Model) -> tuple[list[Any], list[Any]]:
    """Ask for videos at random moments, the same in each run; returns the rows of the previews and of the others."""
    dice = random.Random(SEED)
    mean_s = LONG_SHARE * LONG_S + (1 - LONG_SHARE) * PREVIEW_S
    asked: tuple[list[Future[list[str]]], list[Future[list[str]]]] = ([], [])
    due = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        for _ in range(JOBS):
            due += dice.expovariate(OFFERED * DENOISERS / mean_s)
            is_long = dice.random() < LONG_SHARE
            request = {"model": model.name, "num_inference_steps": _steps(LONG_S if is_long else PREVIEW_S)}
            time.sleep(max(due - time.monotonic(), 0))
            asked[is_long].append(pool.submit(world.submit, [request], "normal" if is_long else "high"))
    short, long = (world.completed([future.result()[0] for future in futures]) for futures in asked)
    return short, long


def _steps(seconds: float) -> int:
    return round(seconds / STEP_S)
