"""The video encoder works while the next frames are being made."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator

import pytest
import torch

from pipelines.frames import consume_meanwhile, to_frames

PATIENCE_S = 10


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


def test_pixels_become_frames() -> None:
    chunks = [torch.zeros(2, 3, 4, 6), torch.ones(1, 3, 4, 6)]
    frames = list(to_frames(chunks))
    assert [frame.shape for frame in frames] == [(4, 6, 3)] * 3
    assert [int(frame.max()) for frame in frames] == [0, 0, 255]
