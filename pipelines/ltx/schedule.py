"""The noise levels of an LTX-Video denoise. No torch."""

from __future__ import annotations

from typing import Literal

import numpy as np

Schedule = Literal["uniform", "linear-quadratic"]
"""The spacing of the noise levels: linear-quadratic from release 0.9.5 on, as in `LTXConditionPipeline`."""
THRESHOLD = 0.025
"""The share of the noise that the linear half of the linear-quadratic schedule removes."""


def noise_levels(schedule: Schedule, steps: int) -> list[float]:
    """The noise level before each step, from 1 down; after the last step it is 0."""
    if schedule == "uniform":
        levels: list[float] = np.linspace(1.0, 1 / steps, steps).tolist()
        return levels
    return _linear_quadratic(steps)


def _linear_quadratic(steps: int) -> list[float]:
    """A slow straight line for half of the steps, then a parabola that continues it to 0 (LTX-Video, `rf.py`).

    The order of the sums is that of diffusers, so that the levels are equal in float32.
    """
    if steps < 2:
        return [1.0]
    linear = steps // 2
    quadratic = steps - linear
    excess = linear - THRESHOLD * steps  # what the parabola has to remove beyond the line, times `linear`
    second = excess / (linear * quadratic**2)
    first = THRESHOLD / linear - 2 * excess / quadratic**2
    line = [step * THRESHOLD / linear for step in range(linear)]
    parabola = [second * step**2 + first * step + second * linear**2 for step in range(linear, steps)]
    return [1 - removed for removed in (*line, *parabola)]
