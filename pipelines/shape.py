"""The shape of a video's file, which may differ from what its model can render. No torch.

A model renders sizes that are multiples of some number of pixels, and lengths that are multiples of some number of
frames and one more. A request's `size` and `seconds` are what the file has: the model renders the nearest shape, and
the frames are cropped, enlarged or left out at the end. `width`, `height` and `num_frames` are what it renders.

OpenAI's own sizes have 1792 pixels on one side, and most models were made for 1280. So a file may be larger than what
is rendered, up to `MOST_ENLARGED`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from pipelines.card import ModelCard
from pipelines.errors import InvalidRequest

MOST_ENLARGED = 1.5
"""How many times as wide and high as what is rendered a file may be."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request says of the file itself; None is left to the model."""

    size: tuple[int, int] | None = None  # width, height
    seconds: float | None = None
    num_frames: int | None = None  # what `seconds` came to in the source of a remix

    def frames(self, fps: int) -> int | None:
        """The frames of the file."""
        return self.num_frames if self.seconds is None else max(round(self.seconds * fps), 1)


def even(side: int) -> int:
    """The side of a file: H.264 with 4:2:0 chroma has even sides only."""
    return side + side % 2


def odd_sides(width: int, height: int) -> tuple[str, ...]:
    """What to tell the client whose size cannot be a file's."""
    if (even(width), even(height)) == (width, height):
        return ()
    what = f"odd_size: {width}x{height} has an odd side, which H.264 cannot have; the file is"
    return (f"{what} {even(width)}x{even(height)}",)


def frames_for(asked: Asked, fps: int, card: ModelCard) -> int | None:
    """The fewest frames that the model can render for the file's; None where the request leaves them to the model.

    Raises:
        InvalidRequest: they are more than the model can render at any size.
    """
    wanted = asked.frames(fps)
    if wanted is None:
        return None
    frames = -(-(wanted - 1) // card.compression.temporal) * card.compression.temporal + 1
    if frames > card.limits.max_num_frames:
        most = _most_seconds(card.limits.max_num_frames, fps, card)
        raise InvalidRequest(f"seconds must be at most {most} for {card.id} at {fps} fps", param="seconds")
    return frames


def size_for(asked: tuple[int, int], num_frames: int, fps: int, card: ModelCard) -> tuple[int, int]:
    """The size at which the model renders so many frames for a file of the size `asked`.

    It is the next larger one, whose frames are cropped; where a limit forbids that, one whose frames are enlarged, as
    little as the limit allows.

    Raises:
        InvalidRequest: names the nearest possible size of the same ratio, and the most seconds where that helps.
    """
    size = _rendered_size(*asked, num_frames, card)
    if size is not None:
        return size
    width, height = asked
    limits = card.limits
    nearest = _nearest_size(width, height, num_frames, card) if min(asked) > 0 else None
    instead = "" if nearest is None else f"; the nearest possible one of this ratio is {nearest[0]}x{nearest[1]}"
    if _rendered_size(width, height, 1, card) is None:
        message = f"the sides of size must be between {limits.min_size} and {_most_side(card)} for {card.id}{instead}"
        if limits.min_size <= min(asked) and max(asked) <= _most_side(card):
            message = f"{card.id} cannot render this size, nor one to enlarge{instead}"
        raise InvalidRequest(message, param="size")
    ratio = card.compression.temporal
    possible = range(1, limits.max_num_frames + 1, ratio)
    frames = max(each for each in possible if _rendered_size(width, height, each, card) is not None)
    most = _most_seconds(frames, fps, card)
    raise InvalidRequest(
        f"size must be smaller for {num_frames} frames of {card.id}, or the video at most {most} s long{instead}",
        param="size",
    )


def most_seconds(width: int, height: int, fps: int, card: ModelCard) -> str:
    """How long a video of this size may be, as text."""
    return _most_seconds(card.limits.max_pixels // (width * height), fps, card)


def _most_seconds(num_frames: int, fps: int, card: ModelCard) -> str:
    """The seconds of the longest video of at most so many frames; rounded down, so that they can be asked for."""
    ratio = card.compression.temporal
    frames = (min(num_frames, card.limits.max_num_frames) - 1) // ratio * ratio + 1
    return f"{math.floor(frames / fps * 1000) / 1000:g}"


def _rendered_size(width: int, height: int, num_frames: int, card: ModelCard) -> tuple[int, int] | None:
    """The size to render for a file's: the one that is enlarged least and has the fewest pixels; None without one."""
    pixels = width * height * num_frames
    scales = (1.0, card.limits.max_size / max(width, height, 1), math.sqrt(card.limits.max_pixels / max(pixels, 1)))
    scale = min(scales)
    possible = [
        (_enlarged((width, height), (wide, high)), wide * high, (wide, high))
        for part in (1.0, scale)
        for wide in _sides(width, part, card)
        for high in _sides(height, part, card)
        if card.limits.allow_pixels(wide, high, num_frames)
    ]
    enlarged, _, size = min(possible, default=(math.inf, 0, None))
    return size if enlarged <= MOST_ENLARGED else None


def _enlarged(file: tuple[int, int], rendered: tuple[int, int]) -> float:
    """How much larger a file is than what is rendered for it, at least once."""
    return max(even(file[0]) / rendered[0], even(file[1]) / rendered[1], 1.0)


def _most_side(card: ModelCard) -> int:
    """The longest side of a file."""
    return math.floor(card.limits.max_size * MOST_ENLARGED / 2) * 2


def _sides(file: int, part: float, card: ModelCard) -> list[int]:
    """The possible sides on either side of a part of a file's."""
    multiple, limits = card.limits.size_multiple, card.limits
    if file < limits.min_size:
        return []
    side = max(round(file * part, 6), limits.min_size)
    below, above = math.floor(side / multiple) * multiple, math.ceil(side / multiple) * multiple
    return [each for each in {below, above} if limits.allow_side(each)]


def _nearest_size(width: int, height: int, num_frames: int, card: ModelCard) -> tuple[int, int] | None:
    """The possible size nearest to one that is not, of the same ratio; None if there is none.

    A size of exactly the same ratio is preferred, unless it is a tenth smaller than one of nearly the same.
    """

    def distance(size: tuple[int, int]) -> float:
        return abs(math.log(size[0] / width))

    best = None
    for size in sorted(_of_ratio(width, height, card), key=distance):
        if best is not None and distance(size) - distance(best) >= math.log(1.1):
            break
        if _rendered_size(*size, num_frames, card) is None:
            continue
        if size[0] * height == size[1] * width:
            return size
        best = best or size
    return best


def _of_ratio(width: int, height: int, card: ModelCard) -> Iterator[tuple[int, int]]:
    """The sizes with even sides within the card's limits whose ratio is as near as it can be."""
    most = _most_side(card)
    for wide in range(2, most + 1, 2):
        high = round(wide * height / width / 2) * 2
        if 0 < high <= most:
            yield wide, high
