"""Frames of one size as those of another, which the file has."""

from __future__ import annotations

import json
from collections.abc import Sequence
from io import BytesIO

import av
import numpy as np
import pytest
from PIL import Image

from pipelines.catalogue import get_card
from pipelines.color import Frame
from pipelines.errors import JobFailed
from pipelines.output import Output, metadata_of
from pipelines.protocols import Audio
from pipelines.requests import GenerationRequest, resolve
from pipelines.reshaping import reshaped
from pipelines.video import encode_mp4, render
from tests.unit.encoding import moving

NOISE = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
RENDERED = resolve(
    GenerationRequest(prompt="a", width=96, height=64, num_frames=9, fps=8, seed=1), get_card("ltx-tiny")
)


def one(frame: Frame, width: int, height: int) -> Frame:
    (changed,) = reshaped([frame], width, height)
    assert changed.shape == (height, width, 3)
    assert changed.dtype == np.uint8
    return changed


def test_a_larger_frame_is_cropped_around_its_centre() -> None:
    assert np.array_equal(one(NOISE, 90, 50), NOISE[7:57, 3:93])
    assert np.array_equal(one(NOISE, 96, 64), NOISE)


@pytest.mark.parametrize(("width", "height"), [(98, 64), (108, 72), (96, 80), (200, 66)])
def test_a_smaller_frame_is_enlarged_until_it_covers_the_size(width: int, height: int) -> None:
    y, x = np.mgrid[0:64, 0:96]
    gentle = np.stack([2 * x + 30, 3 * y + 20, 200 - x - y // 2], axis=-1).astype(np.uint8)
    scale = max(width / 96, height / 64)
    to = max(width, round(96 * scale)), max(height, round(64 * scale))
    left, top = (to[0] - width) // 2, (to[1] - height) // 2
    expected = (
        Image.fromarray(gentle).resize(to, Image.Resampling.LANCZOS).crop((left, top, left + width, top + height))
    )
    difference = np.abs(one(gentle, width, height).astype(int) - np.asarray(expected))
    assert difference.mean() < 0.5
    assert difference[4:-4, 4:-4].max() <= 1


def test_a_flat_frame_keeps_its_color_when_it_is_enlarged() -> None:
    for color in ((0, 0, 0), (255, 255, 255), (200, 30, 90)):
        assert np.all(one(np.full((64, 96, 3), color, np.uint8), 200, 150) == color)


def test_an_odd_side_is_padded_with_its_last_row_or_column() -> None:
    odd = NOISE[:63, :95]
    padded = one(odd, 96, 64)
    assert np.array_equal(padded[:63, :95], odd)
    assert np.array_equal(padded[63, :95], odd[62])
    assert np.array_equal(padded[:, 95], padded[:, 94])
    assert np.array_equal(one(NOISE[:63], 96, 64)[63], NOISE[62])
    assert np.array_equal(one(NOISE[:, :95], 96, 64)[:, 95], NOISE[:, 94])
    assert np.array_equal(one(NOISE[:63], 80, 64)[:63], NOISE[:63, 8:88]), "and the other side is cropped"


@pytest.mark.parametrize(("width", "height"), [(65, 49), (64, 49), (65, 48), (1, 1)])
def test_any_size_makes_a_file(width: int, height: int) -> None:
    with av.open(BytesIO(encode_mp4([np.zeros((height, width, 3), np.uint8)] * 2, 8, {}))) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, stream.frames) == (width + width % 2, height + height % 2, 2)


def test_every_file_has_the_shape_that_was_asked_for() -> None:
    output = Output(width=90, height=50, num_frames=8)
    rate = 8000
    sound = Audio(np.zeros((1, rate * 3), np.float32), rate)
    frames = moving(64, 96)
    made = render([sound, *frames], RENDERED, metadata_of("m", output.delivered(RENDERED)), output)
    with av.open(BytesIO(made.mp4)) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, stream.frames) == (90, 50, 8)
        assert container.duration == 1_000_000
        assert json.loads(container.metadata["comment"])["size"] == "90x50"
    assert made.thumbnail is not None
    assert made.spritesheet is not None
    assert Image.open(BytesIO(made.thumbnail)).size == (90, 50)
    assert Image.open(BytesIO(made.spritesheet)).size == (5 * 90, 2 * 50)
    expected: Sequence[Frame] = [frame[7:57, 3:93] for frame in frames[:8]]
    assert render(expected, output.delivered(RENDERED), {}, Output()).mp4 == render(frames, RENDERED, {}, output).mp4


def test_frames_that_are_left_out_are_counted_too() -> None:
    for number in (8, 10):
        with pytest.raises(JobFailed, match=f"the decoder yielded {number} frames; the video has 9"):
            render([NOISE] * number, RENDERED, {}, Output(num_frames=8))


def test_an_odd_video_of_an_older_row_has_even_files() -> None:
    odd = RENDERED.model_copy(update={"width": 95, "height": 63})
    made = render([NOISE[:63, :95]] * 9, odd, {}, Output())
    assert made.thumbnail is not None
    assert Image.open(BytesIO(made.thumbnail)).size == (96, 64)
