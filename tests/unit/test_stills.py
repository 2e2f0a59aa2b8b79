"""The poster and the spritesheet."""

from __future__ import annotations

from io import BytesIO
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipelines.card import RequestFields
from pipelines.output import Output, OutputFields
from pipelines.stills import Stills, tile_frames


def _clip(num_frames: int, height: int, width: int) -> list[NDArray[np.uint8]]:
    """Every frame is of one gray, and no two of the same."""
    return [np.full((height, width, 3), 250 * i // max(num_frames - 1, 1), np.uint8) for i in range(num_frames)]


def _watch(clip: list[NDArray[np.uint8]]) -> Stills:
    stills = Stills(len(clip))
    passed = list(stills.passing(clip))
    assert all(a is b for a, b in zip(passed, clip, strict=True)), "the frames pass unchanged"
    return stills


def _open(webp: bytes | None) -> Image.Image:
    assert webp is not None
    image = Image.open(BytesIO(webp))
    assert (image.format, image.mode) == ("WEBP", "RGB")
    return image


def _grays(sheet: Image.Image, columns: int, rows: int) -> list[int]:
    """The gray in the middle of each place of a grid, row by row."""
    width, height = sheet.width // columns, sheet.height // rows
    red = np.asarray(sheet)[..., 0]
    middles = red[height // 2 :: height, width // 2 :: width]
    assert middles.shape == (rows, columns)
    return [int(gray) for gray in middles.flat]


def _close(found: list[int], expected: list[int]) -> bool:
    return len(found) == len(expected) and all(abs(a - b) <= 3 for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("frame", "thumbnail", "tile"),
    [
        ((480, 704), (640, 436), (160, 109)),
        ((1280, 720), (360, 640), (90, 160)),
        ((320, 640), (640, 320), (160, 80)),
        ((64, 96), (96, 64), (96, 64)),
        ((32, 1024), (640, 20), (160, 5)),
    ],
)
def test_stills_are_scaled_down_and_never_up(
    frame: tuple[int, int], thumbnail: tuple[int, int], tile: tuple[int, int]
) -> None:
    stills = _watch(_clip(3, *frame))
    assert _open(stills.thumbnail()).size == thumbnail
    assert _open(stills.spritesheet()).size == (3 * tile[0], tile[1])


@pytest.mark.parametrize("num_frames", [1, 2, 9, 121])
def test_the_thumbnail_is_the_middle_frame(num_frames: int) -> None:
    clip = _clip(num_frames, 64, 96)
    image = _open(_watch(clip).thumbnail())
    assert _close([int(np.asarray(image).mean())], [int(clip[num_frames // 2].mean())])


@pytest.mark.parametrize(
    ("num_frames", "columns", "rows"), [(1, 1, 1), (4, 4, 1), (5, 5, 1), (9, 5, 2), (25, 5, 5), (26, 5, 5), (121, 5, 5)]
)
def test_tiles_are_evenly_spaced_and_row_by_row(num_frames: int, columns: int, rows: int) -> None:
    clip = _clip(num_frames, 64, 96)
    sheet = _open(_watch(clip).spritesheet())
    assert sheet.size == (columns * 96, rows * 64)
    chosen = tile_frames(num_frames)
    black = [0] * (columns * rows - len(chosen))
    assert _close(_grays(sheet, columns, rows), [int(clip[i].mean()) for i in chosen] + black)


def test_the_frames_of_a_spritesheet() -> None:
    assert tile_frames(1) == [0]
    assert tile_frames(9) == list(range(9))
    assert tile_frames(121) == list(range(0, 121, 5))
    for num_frames in range(1, 300):
        chosen = tile_frames(num_frames)
        assert len(set(chosen)) == len(chosen) == min(25, num_frames)
        assert (chosen[0], chosen[-1]) == (0, num_frames - 1)
        gaps = {after - before for before, after in pairwise(chosen)}
        assert max(gaps, default=0) - min(gaps, default=0) <= 1, "evenly spaced"


def test_stills_are_deterministic_whatever_the_memory_layout() -> None:
    rng = np.random.default_rng(0)
    clip = [rng.integers(0, 256, (120, 200, 3), np.uint8) for _ in range(30)]
    planar = [np.ascontiguousarray(frame.transpose(2, 0, 1)).transpose(1, 2, 0) for frame in clip]
    one, other = _watch(clip), _watch(planar)
    assert one.thumbnail() == one.thumbnail() == other.thumbnail()
    assert one.spritesheet() == other.spritesheet()
    assert one.thumbnail() != _watch(clip[::-1]).thumbnail()


def test_a_frame_may_be_reused_once_it_has_passed() -> None:
    """As a decoder may that writes every frame into one buffer."""
    clip = _clip(9, 64, 96)
    stills = Stills(9)
    buffer = np.empty_like(clip[0])

    def into_one_buffer() -> object:
        for frame in clip:
            buffer[:] = frame
            yield buffer

    for _ in stills.passing(into_one_buffer()):  # type: ignore[arg-type]
        pass
    buffer[:] = 255
    assert stills.spritesheet() == _watch(clip).spritesheet()
    assert stills.thumbnail() == _watch(clip).thumbnail()


def test_stills_of_a_video_that_stopped_short_are_a_bug() -> None:
    stills = Stills(9)
    list(stills.passing(_clip(8, 64, 96)))
    with pytest.raises(AssertionError, match="8 of 9"):
        stills.spritesheet()


def test_what_a_request_does_not_say_is_the_default() -> None:
    assert Output.of(OutputFields()) == Output(thumbnail=True, spritesheet=True, crf=18)
    assert Output.of(OutputFields(thumbnail=False, crf=0)) == Output(thumbnail=False, spritesheet=True, crf=0)


def test_output_is_part_of_a_larger_request() -> None:
    class Request(OutputFields, RequestFields):
        pass

    assert Output.of(Request(prompt="a", width=64, spritesheet=False)) == Output(spritesheet=False)


@pytest.mark.parametrize("crf", [-1, 52])
def test_crf_has_the_range_of_h264(crf: int) -> None:
    with pytest.raises(ValueError, match="crf"):
        OutputFields(crf=crf)
    with pytest.raises(ValueError, match="crf"):
        Output(crf=crf)
