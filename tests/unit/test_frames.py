"""The video encoder works while the next frames are being made."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator

import pytest
import torch

from pipelines.frames import consume_meanwhile, to_frames
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
