"""How a finished model is judged, whatever its family: from the frames of the mp4 that a service would send."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from pipelines.color import Frame
from pipelines.frames import to_frames
from pipelines.video import encode_mp4, read_frames


@dataclass(frozen=True, slots=True)
class Row:
    """How many of some videos are right in one respect."""

    name: str
    correct: int
    of: int

    @property
    def percent(self) -> float:
        return 100 * self.correct / self.of

    def __str__(self) -> str:
        return f"{self.correct}/{self.of} ({self.percent:.1f} %)"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A model's table, ready to print, and the bounds it misses, as sentences."""

    table: list[str]
    missed: list[str]


def shortfalls(rows: Sequence[Row], bounds: dict[str, float]) -> list[str]:
    """The rows below their bound, which is in percent."""
    return [
        f"{row.name}: {row.percent:.1f} % of {bounds[row.name]:.0f} %"
        for row in rows
        if row.name in bounds and row.percent < bounds[row.name]
    ]


def mp4_frames(video: Tensor, fps: int) -> list[Frame]:
    """A video of [F, 3, H, W] in [0, 1], encoded and read back."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        path.write_bytes(encode_mp4(to_frames([video]), fps, {}))
        return list(read_frames(path))


def to_picture(pixels: Tensor) -> Image.Image:
    """[3, H, W] in [-1, 1] as the image a client would send."""
    return Image.fromarray(((pixels + 1) * 127.5).round().byte().permute(1, 2, 0).numpy())


def frame_psnr(frame: Frame, image: Image.Image) -> float:
    """Of a frame against the image it should show, in dB."""
    error = (np.asarray(frame, np.float64) - np.asarray(image, np.float64)) / 255
    return float(-10 * np.log10(np.square(error).mean()))
