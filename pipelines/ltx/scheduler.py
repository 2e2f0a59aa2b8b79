"""diffusers' scheduler with the noise levels of one video."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pipelines.ltx.card import LTXParameters

if TYPE_CHECKING:
    from diffusers import FlowMatchEulerDiscreteScheduler

UNSHIFTED = {"use_dynamic_shifting": False, "shift": 1.0, "shift_terminal": None}


def scheduler_of(
    scheduler: FlowMatchEulerDiscreteScheduler,
    parameters: LTXParameters,
    grid: tuple[int, int, int],
    device: torch.device,
) -> FlowMatchEulerDiscreteScheduler:
    """A scheduler for one denoise, since it counts its steps.

    The levels of the uniform schedule are shifted as the checkpoint says. Others are those on which a release was
    trained, and stay as they are: `LTXConditionPipeline` asks for a scheduler that does not shift them.

    Args:
        grid: the video's latent frames, rows and columns.
    """
    uniform = parameters.timesteps is None and parameters.schedule == "uniform"
    settings: dict[str, Any] = {"stochastic_sampling": parameters.stochastic_sampling}
    if not uniform:
        settings |= UNSHIFTED
    elif parameters.num_inference_steps == 1:
        settings["shift_terminal"] = None  # one step has nothing to stretch, and diffusers would divide by zero
    own = type(scheduler).from_config(scheduler.config, **settings)
    levels = np.array(parameters.levels, dtype=np.float32)
    if uniform:
        own.set_timesteps(sigmas=levels, device=device, mu=_shift(scheduler.config, grid))
    else:
        timesteps = np.array(parameters.timesteps or levels * 1000, dtype=np.float32)
        own.set_timesteps(sigmas=timesteps / 1000, timesteps=timesteps, device=device)
    return own


def _shift(config: Any, grid: tuple[int, int, int]) -> float:
    """The resolution-dependent shift of the schedule (diffusers `calculate_shift`)."""
    low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    base, top = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    num_frames, height, width = grid
    slope = (top - base) / (high - low)
    shift: float = num_frames * height * width * slope + (base - slope * low)
    return shift
