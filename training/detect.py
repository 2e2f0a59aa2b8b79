"""The judge: reads colour, shape, motion and background off the frames of a video, knowing nothing of any model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.world import BACKGROUNDS, COLORS, RGB, SHAPES

FOREGROUND = 55  # a pixel whose colour differs from the background by more, in any channel of 255, is the shape
STILL = 0.11  # a centre that travels less than this share of the frame's shorter side stands still
MIN_AREA = 0.01  # of the frame; less is noise


@dataclass(frozen=True, slots=True)
class Seen:
    """What a video shows; None where it cannot be told. Distances are shares of the shorter side."""

    color: str | None
    shape: str | None
    motion: str | None
    background: str
    dx: float = 0.0
    dy: float = 0.0


def detect(frames: Iterable[NDArray[np.uint8]]) -> Seen:
    """Judge a video given as [H, W, 3] RGB frames."""
    video = np.stack(list(frames)).astype(np.int16)  # [F, H, W, 3]
    border = np.concatenate([video[:, 0], video[:, -1], video[:, :, 0], video[:, :, -1]], axis=1)
    paper = np.median(border.reshape(-1, 3), axis=0)
    background = _nearest(paper, BACKGROUNDS)
    masks = np.abs(video - paper).max(axis=-1) > FOREGROUND  # [F, H, W]
    side = min(masks.shape[1:])
    visible = [index for index, mask in enumerate(masks) if mask.mean() > MIN_AREA]
    if len(visible) < 3:
        return Seen(None, None, None, background)
    centers = {index: np.argwhere(masks[index]).mean(axis=0) for index in visible}
    first, last = visible[0], visible[-1]
    # What is hidden at either end is extrapolated from what is seen between.
    whole_clip = (len(masks) - 1) / (last - first)
    dy, dx = (float(value) for value in (centers[last] - centers[first]) / side * whole_clip)
    ink = np.median(np.concatenate([video[index][_core(masks[index])] for index in visible]), axis=0)
    return Seen(_nearest(ink, COLORS), _shape([masks[index] for index in visible]), _motion(dx, dy), background, dx, dy)


def _motion(dx: float, dy: float) -> str:
    if max(abs(dx), abs(dy)) < STILL:
        return "still"
    if abs(dx) > abs(dy):
        return "right" if dx > 0 else "left"
    return "down" if dy > 0 else "up"


def _shape(masks: list[NDArray[np.bool_]]) -> str:
    """By the share of its bounding box that the shape fills: about 0.5, 0.79 and 1, frame by frame, then the median."""
    fills = []
    for mask in masks:
        rows, columns = np.flatnonzero(_dense(mask, 1)), np.flatnonzero(_dense(mask, 0))
        box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] if len(rows) and len(columns) else mask
        fills.append(float(box.mean()))
    fill = float(np.median(fills))
    return SHAPES[2] if fill < 0.66 else SHAPES[0] if fill < 0.895 else SHAPES[1]


def _dense(mask: NDArray[np.bool_], axis: int) -> NDArray[np.bool_]:
    """Rows or columns that hold more than a stray pixel."""
    dense: NDArray[np.bool_] = mask.sum(axis=axis) >= 2
    return dense


def _core(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask without its one-pixel rim, whose colour is mixed with the background's."""
    core = mask.copy()
    core[1:] &= mask[:-1]
    core[:-1] &= mask[1:]
    core[:, 1:] &= mask[:, :-1]
    core[:, :-1] &= mask[:, 1:]
    return core if core.any() else mask


def _nearest(color: NDArray[np.floating], names: dict[str, RGB]) -> str:
    return min(names, key=lambda name: float(np.abs(np.array(names[name]) - color).sum()))
