"""A given picture becomes one of the video's size, and only `stretch` may distort it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipelines.fit import Fit, fitted

RED, GREEN, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 0)


def with_square(width: int, height: int, side: int) -> Image.Image:
    """A green picture with a red square in its middle."""
    image = Image.new("RGB", (width, height), GREEN)
    image.paste(RED, ((width - side) // 2, (height - side) // 2, (width + side) // 2, (height + side) // 2))
    return image


def box_of(image: Image.Image, red: bool) -> tuple[int, ...] | None:
    """The box of the pixels that are red, or that are not black."""
    pixels = np.asarray(image).astype(int)
    seen = pixels[..., 0] > 127 if red else pixels.sum(axis=2) > 127
    return Image.fromarray(seen).getbbox()


@pytest.mark.parametrize(("width", "height"), [(200, 100), (100, 200), (150, 150)], ids=["wide", "tall", "square"])
def test_cover_fills_the_video_and_keeps_what_is_in_the_middle_in_shape(width: int, height: int) -> None:
    result = fitted(with_square(width, height, 40), 96, 64, "cover")
    assert result.size == (96, 64)
    assert box_of(result, red=False) == (0, 0, 96, 64)
    left, top, right, bottom = box_of(result, red=True) or (0, 0, 0, 0)
    side = 40 * max(96 / width, 64 / height)
    assert (right - left, bottom - top) == pytest.approx((side, side), abs=2)
    assert ((left + right) / 2, (top + bottom) / 2) == pytest.approx((48, 32), abs=1)


@pytest.mark.parametrize(
    ("width", "height", "shown"),
    [(200, 100, (0, 8, 96, 56)), (100, 200, (32, 0, 64, 64)), (300, 200, (0, 0, 96, 64))],
    ids=["wide", "tall", "the video's ratio"],
)
def test_contain_shows_the_whole_picture_between_black_bars(width: int, height: int, shown: tuple[int, ...]) -> None:
    result = fitted(with_square(width, height, 40), 96, 64, "contain")
    assert result.size == (96, 64)
    assert box_of(result, red=False) == shown
    left, top, right, bottom = box_of(result, red=True) or (0, 0, 0, 0)
    side = 40 * min(96 / width, 64 / height)
    assert (right - left, bottom - top) == pytest.approx((side, side), abs=2)
    assert ((left + right) / 2, (top + bottom) / 2) == pytest.approx((48, 32), abs=1)


def test_stretch_leaves_the_picture_to_diffusers() -> None:
    image = with_square(50, 70, 10)
    assert fitted(image, 96, 64, "stretch") is image


def noise(width: int, height: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("fit", ["cover", "contain", "stretch"])
def test_a_picture_of_the_videos_size_keeps_every_pixel(fit: Fit) -> None:
    pixels = noise(96, 64)
    assert np.array_equal(np.asarray(fitted(Image.fromarray(pixels), 96, 64, fit)), pixels)


@pytest.mark.parametrize("fit", ["cover", "contain"])
@pytest.mark.parametrize("size", [(1, 1), (8000, 1), (1, 8000), (3, 1)])
def test_a_flat_or_tiny_picture_is_seen(fit: Fit, size: tuple[int, int]) -> None:
    result = fitted(Image.new("RGB", size, GREEN), 1024, 576, fit)
    assert (result.size, result.mode) == ((1024, 576), "RGB")
    assert GREEN in {color for _, color in result.getcolors() or []}
