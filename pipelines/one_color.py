"""Videos of one color, which broken weights, an overflow or a stage of another model make. Imports no torch.

Such a video is reported and not refused: it may be what was asked for.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.protocols import Frame

TOLERANCE = 16
"""The most by which one channel may differ, of 255 levels, within one color."""
OUTLIERS_PERCENT = 0.5
"""The share of a frame's darkest and brightest samples that do not count, each."""
SAMPLES = 64
"""A frame is looked at in about so many rows and columns."""

_ASKED = re.compile(
    r"\b(solid|plain|blank|uniform|featureless|monochrome|monochromatic|empty|(one|single)[ -]colou?r(ed)?)\b"
    r"|\b(black|white|gr[ae]y|red|green|blue|yellow|dark|colou?r(ed)?)[ -](screen|frame|image|background|backdrop)\b"
    r"|\b(pitch[ -]black|darkness)\b",
    re.IGNORECASE,
)


def asks_for_one_color(prompt: str) -> bool:
    """Whether a prompt may want a video of one color: it has a word like "plain", or names a "black screen".

    A color alone says nothing: most prompts with a black cat want the cat too.
    """
    return _ASKED.search(prompt) is not None


class OneColor:
    """Watches a video's frames; stops looking once they are of more than one color."""

    def __init__(self) -> None:
        self._low: list[float] = [255.0] * 3
        self._high: list[float] = [0.0] * 3
        self._frames = 0
        self._possible = True

    def see(self, frame: Frame) -> None:
        """Take account of one frame, [H, W, 3] uint8."""
        if not self._possible:
            return
        import numpy as np

        rows, columns = (max(1, size // SAMPLES) for size in frame.shape[:2])
        samples = frame[::rows, ::columns].reshape(-1, 3)
        low, high = np.percentile(samples, (OUTLIERS_PERCENT, 100 - OUTLIERS_PERCENT), axis=0)
        self._low = [min(pair) for pair in zip(self._low, low.tolist(), strict=True)]
        self._high = [max(pair) for pair in zip(self._high, high.tolist(), strict=True)]
        self._frames += 1
        self._possible = all(top - bottom <= TOLERANCE for bottom, top in zip(self._low, self._high, strict=True))

    @property
    def color(self) -> str | None:
        """The color of all frames so far, `#rrggbb`; None where there are several, or no frame yet."""
        if not self._possible or not self._frames:
            return None
        middle = (round((bottom + top) / 2) for bottom, top in zip(self._low, self._high, strict=True))
        return "#" + "".join(f"{level:02x}" for level in middle)

    @property
    def warning(self) -> str | None:
        """What a job's `warnings` say of such a video."""
        return (
            None
            if self.color is None
            else f"one_color: every frame is nearly {self.color}, which the prompt does not ask for"
        )
