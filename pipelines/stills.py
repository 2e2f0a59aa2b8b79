"""The thumbnail and spritesheet of a video, taken from frames on their way into the video encoder.

It keeps only the frames it shows, already scaled down, so a long video needs no more memory than a short one. The same
frames give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

THUMBNAIL_SIDE = 640
"""The maximum length of the thumbnail's longer side, in pixels."""
TILE_SIDE = 160
"""The maximum length of a tile's longer side, in pixels."""
TILES = 25
COLUMNS = 5

_WEBP = {"quality": 85, "method": 2}  # half the time of the default method 4, for a twentieth more bytes


class Stills:
    """Sees all frames of one video and keeps the few it needs.

    The thumbnail is the middle frame. The spritesheet is a row-major grid of evenly spaced frames, from the first to
    the last, at most 25 in at most 5 columns. No frame is ever enlarged.
    """

    def __init__(self, num_frames: int, *, thumbnail: bool = True, spritesheet: bool = True) -> None:
        self._num_frames = num_frames
        self._middle = num_frames // 2 if thumbnail else None
        self._chosen = set(tile_frames(num_frames)) if spritesheet else set()
        self._seen = 0
        self._poster: Image.Image | None = None
        self._tiles: list[Image.Image] = []

    def passing(self, frames: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
        """Yield the same frames, [H, W, 3] RGB, and keep those that are needed."""
        for frame in frames:
            if self._seen == self._middle:
                self._poster = _scaled(frame, THUMBNAIL_SIDE)
            if self._seen in self._chosen:
                self._tiles.append(_scaled(frame, TILE_SIDE))
            self._seen += 1
            yield frame

    def thumbnail(self) -> bytes | None:
        """The thumbnail as WebP; call it once every frame has passed. None when it is not wanted."""
        self._check_complete()
        return None if self._poster is None else _webp(self._poster)

    def spritesheet(self) -> bytes | None:
        """The spritesheet as WebP; call it once every frame has passed. None when it is not wanted.

        Places after the last tile are black.
        """
        self._check_complete()
        if not self._tiles:
            return None
        width, height = self._tiles[0].size
        columns = min(COLUMNS, len(self._tiles))
        rows = -(-len(self._tiles) // columns)
        sheet = Image.new("RGB", (columns * width, rows * height))
        for index, tile in enumerate(self._tiles):
            sheet.paste(tile, (index % columns * width, index // columns * height))
        return _webp(sheet)

    def _check_complete(self) -> None:
        assert self._seen == self._num_frames, f"{self._seen} of {self._num_frames} frames have passed"


def tile_frames(num_frames: int) -> list[int]:
    """The frame indices of a spritesheet, in tile order: the first, the last, and evenly spaced ones between."""
    tiles = min(TILES, num_frames)
    return [index * (num_frames - 1) // max(tiles - 1, 1) for index in range(tiles)]


def _scaled(frame: NDArray[np.uint8], side: int) -> Image.Image:
    image = Image.fromarray(frame)
    image.thumbnail((side, side))  # this keeps the aspect ratio and never enlarges
    return image


def _webp(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "webp", **_WEBP)
    return buffer.getvalue()
