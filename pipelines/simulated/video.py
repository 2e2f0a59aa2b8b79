"""A simulated video's files: a test card, encoded once for each shape, because tests do not measure the encoder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from pipelines import video
from pipelines.card import Parameters
from pipelines.color import Frame
from pipelines.output import Output, RenderedVideo
from pipelines.protocols import Audio


def render(
    frames: Iterable[Frame | Audio],
    parameters: Parameters,
    metadata: dict[str, object],
    output: Output,
    *,
    threads: int = 1,
) -> RenderedVideo:
    """Take every frame as its decoder produces it, and return the files of the shape's test card."""
    for _ in frames:
        pass
    shape = parameters.model_copy(update={"seed": 0})
    return _rendered(shape, tuple(metadata.items()), output, threads)


@lru_cache(maxsize=64)
def _rendered(
    parameters: Parameters, metadata: tuple[tuple[str, object], ...], output: Output, threads: int
) -> RenderedVideo:
    return video.render(_test_card(parameters), parameters, dict(metadata), output, threads=threads)


def _test_card(parameters: Parameters) -> Iterator[Frame]:
    """Frames with the word "simulated" and a bar that shows how much of the video has passed."""
    width, height = parameters.width, parameters.height
    card = Image.new("RGB", (width, height), (96, 96, 96))
    middle, size = (width / 2, height / 2), min(width, height) / 6
    ImageDraw.Draw(card).text(middle, "simulated", (255, 255, 255), anchor="mm", font_size=size)
    for index in range(parameters.num_frames):
        frame = np.array(card)
        frame[-max(height // 16, 1) :, : width * (index + 1) // parameters.num_frames] = 255
        yield frame
