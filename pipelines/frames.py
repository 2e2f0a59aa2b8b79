"""The path of decoded pixels into a video encoder, which encodes frames while more are being decoded."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
R = TypeVar("R")

_END = object()


def to_frames(chunks: Iterable[Tensor | NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    """Convert tensors [n, 3, H, W] in [0, 1] on any device to frames [H, W, 3] uint8. Arrays are already frames."""
    for chunk in chunks:
        if isinstance(chunk, np.ndarray):
            yield from chunk
        else:
            yield from (chunk.permute(0, 2, 3, 1).float() * 255).round().byte().contiguous().cpu().numpy()


def consume_meanwhile(items: Iterable[T], consume: Callable[[Iterable[T]], R]) -> R:
    """Run `consume(items)` in a thread of its own while the calling thread produces the items.

    An error on either side ends both and is raised here. The queue between them is unbounded: if items are produced
    faster than they are consumed, all of them may wait in it.
    """
    waiting: SimpleQueue[Any] = SimpleQueue()
    aborted = threading.Event()

    def arriving() -> Iterator[T]:
        while (item := waiting.get()) is not _END and not aborted.is_set():
            yield item

    with ThreadPoolExecutor(1, thread_name_prefix="consume") as pool:
        consumed = pool.submit(consume, arriving())
        try:
            for item in items:
                waiting.put(item)
                if consumed.done():
                    break
        except BaseException:
            aborted.set()
            raise
        finally:
            waiting.put(_END)
        return consumed.result()
