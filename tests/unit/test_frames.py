"""The video encoder works while the next frames are being made."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.errors import JobFailed
from pipelines.frames import consume_meanwhile, last_frame, to_frames
from pipelines.protocols import Audio
from pipelines.video import encode_mp4

PATIENCE_S = 60


def test_consumes_one_item_while_the_next_is_made() -> None:
    consuming, making = threading.Event(), threading.Event()

    def items() -> Iterator[int]:
        yield 1
        making.set()
        assert consuming.wait(PATIENCE_S), "item 1 was not being consumed while item 2 was being made"
        yield 2

    def consume(numbers: Iterable[int]) -> list[int]:
        seen = []
        for number in numbers:
            consuming.set()
            assert making.wait(PATIENCE_S), "item 2 was not begun while item 1 was being consumed"
            seen.append(number)
        return seen

    assert consume_meanwhile(items(), consume) == [1, 2]


def test_an_error_on_either_side_is_raised() -> None:
    def fails(_: object) -> None:
        raise KeyError("consumer")

    with pytest.raises(KeyError):
        consume_meanwhile(iter(range(3)), fails)

    def broken() -> Iterator[int]:
        yield 1
        raise ValueError("maker")

    with pytest.raises(ValueError, match="maker"):
        consume_meanwhile(broken(), list)


def test_frames_become_an_mp4_on_the_way() -> None:
    chunks = (torch.rand(4, 3, 32, 48) for _ in range(3))
    mp4 = consume_meanwhile(to_frames(chunks), lambda frames: encode_mp4(frames, 8, {}))
    assert mp4[4:8] == b"ftyp"


def test_a_failed_maker_ends_the_consumer_early() -> None:
    consuming, failed = threading.Event(), threading.Event()
    seen = []

    def broken() -> Iterator[int]:
        yield from range(100_000)
        assert consuming.wait(PATIENCE_S)
        try:
            raise ValueError("maker")
        finally:
            failed.set()

    def consume(numbers: Iterable[int]) -> None:
        for number in numbers:
            seen.append(number)
            consuming.set()
            assert failed.wait(PATIENCE_S)

    with pytest.raises(ValueError, match="maker"):
        consume_meanwhile(broken(), consume)
    assert len(seen) < 100_000


def test_pixels_become_frames() -> None:
    chunks = [torch.zeros(2, 3, 4, 6), torch.ones(1, 3, 4, 6)]
    frames = list(to_frames(chunks))
    assert [frame.shape for frame in frames] == [(4, 6, 3)] * 3
    assert [int(frame.max()) for frame in frames] == [0, 0, 255]


@pytest.mark.parametrize(
    "chunk",
    [
        np.zeros((2, 3, 4, 6), np.uint8),
        np.zeros((2, 4, 6, 3), np.float32),
        np.zeros((2, 4, 6, 4), np.uint8),
        np.zeros((4, 6, 3), np.uint8),
        torch.zeros(2, 4, 6, 3),
        torch.zeros(3, 4, 6),
    ],
    ids=["channels first", "floats", "with alpha", "one frame", "channels last", "one tensor"],
)
def test_what_is_no_frames_fails_the_job_with_a_sentence(chunk: Any) -> None:
    with pytest.raises(JobFailed, match=r"a decoder yields uint8 arrays .* this one: .*\["):
        list(to_frames([chunk]))


def test_the_last_frame_is_the_last_of_the_last_chunk() -> None:
    chunks = [np.full((2, 4, 6, 3), 9, np.uint8), np.arange(3 * 72).reshape(3, 4, 6, 3).astype(np.uint8)]
    sound = Audio(np.zeros((1, 8), np.float32), 8)
    picture = last_frame([sound, *chunks])
    assert (picture.rgb == chunks[1][2]).all()
    assert picture.image().size == (6, 4)
    tensor = torch.stack([torch.zeros(3, 4, 6), torch.ones(3, 4, 6)])
    assert last_frame([tensor]).rgb.min() == 255


def test_sound_passes_unchanged() -> None:
    sound = Audio(np.zeros((1, 8), np.float32), 8)
    first, *frames = to_frames([sound, np.zeros((2, 4, 6, 3), np.uint8)])
    assert first is sound
    assert len(frames) == 2
