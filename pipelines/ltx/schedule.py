"""The noise levels of an LTX-Video denoise. No torch."""

from __future__ import annotations

import numpy as np

from pipelines.ltx.card import Schedule

THRESHOLD = 0.025
"""The share of the noise that the linear half of the linear-quadratic schedule removes."""


def noise_levels(schedule: Schedule, steps: int) -> list[float]:
    """The noise level before each step, from 1 down; after the last step it is 0."""
    if schedule == "uniform":
        levels: list[float] = np.linspace(1.0, 1 / steps, steps).tolist()
        return levels
    return _linear_quadratic(steps)


def _linear_quadratic(steps: int) -> list[float]:
    """A slow straight line for half of the steps, then a parabola that continues it to 0 (LTX-Video, `rf.py`)."""
    if steps < 2:
        return [1.0]
    linear = steps // 2
    quadratic = steps - linear
    slope = THRESHOLD / linear
    excess = linear - THRESHOLD * steps  # what the parabola has to remove beyond the line, times `linear`
    removed = [slope * step + max(step - linear, 0) ** 2 * excess / (linear * quadratic**2) for step in range(steps)]
    return [1 - each for each in removed]
