"""Bring rendered frames exactly to the size of the file: crop, enlarge or pad. The same bytes on every CPU."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from pipelines.color import EXACT, Frame


def reshaped(frames: Iterable[Frame], width: int, height: int) -> Iterator[Frame]:
    """The frames at `width` x `height`.

    A larger frame is cropped around its centre. A smaller one is enlarged by Lanczos' filter until it covers the size,
    and then cropped; one that lacks a single row or column, because its side is odd, gets its last one twice.
    """
    reformatter = VideoReformatter()
    for frame in frames:
        missing = height - frame.shape[0], width - frame.shape[1]
        if max(missing) == 1:
            frame = np.pad(frame, ((0, max(missing[0], 0)), (0, max(missing[1], 0)), (0, 0)), mode="edge")
        elif max(missing) > 1:
            frame = _covering(frame, width, height, reformatter)
        yield _cropped(frame, width, height)


def _covering(frame: Frame, width: int, height: int, reformatter: VideoReformatter) -> Frame:
    scale = max(width / frame.shape[1], height / frame.shape[0])
    to = max(width, round(frame.shape[1] * scale)), max(height, round(frame.shape[0] * scale))
    larger = reformatter.reformat(
        av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24"),
        width=to[0], height=to[1], format="rgb24", interpolation=Interpolation.LANCZOS | EXACT, threads=1,
    )  # fmt: skip
    return larger.to_ndarray().astype(np.uint8, copy=False)


def _cropped(frame: Frame, width: int, height: int) -> Frame:
    top, left = (frame.shape[0] - height) // 2, (frame.shape[1] - width) // 2
    return frame[top : top + height, left : left + width]
