"""The path of decoded pixels into a video encoder, which encodes frames while more are being decoded."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image, fromarray

from pipelines.errors import JobFailed
from pipelines.protocols import Audio

if TYPE_CHECKING:
    from pipelines.protocols import Frame, Pixels

T = TypeVar("T")
R = TypeVar("R")
P = TypeVar("P", bound="Pixels")

_END = object()


@dataclass(frozen=True, slots=True)
class Picture:
    """One frame of a video, as a stage output: a segment may begin with the last frame of the one before."""

    rgb: NDArray[np.uint8]  # [H, W, 3]

    def image(self) -> Image:
        return fromarray(self.rgb)


@overload
def to_frames(chunks: Iterable[Pixels]) -> Iterator[Frame]: ...
@overload
def to_frames(chunks: Iterable[Pixels | Audio]) -> Iterator[Frame | Audio]: ...
def to_frames(chunks: Iterable[Pixels | Audio]) -> Iterator[Frame | Audio]:
    """Convert decoded chunks to single frames [H, W, 3] uint8; sound passes unchanged.

    Raises:
        JobFailed: a chunk has another dtype or shape.
    """
    for chunk in chunks:
        if isinstance(chunk, Audio):
            yield chunk
        elif isinstance(chunk, np.ndarray):
            yield from checked(chunk)
        else:
            chunk = checked(chunk)
            yield from (chunk.permute(0, 2, 3, 1).float() * 255).round().byte().contiguous().cpu().numpy()


def checked(chunk: P) -> P:
    """The same chunk of a decode. Raises JobFailed when it has another dtype or shape than `DecodeStage` says."""
    is_array = isinstance(chunk, np.ndarray)
    if chunk.ndim == 4 and chunk.shape[3 if is_array else 1] == 3 and (not is_array or chunk.dtype == np.uint8):
        return chunk
    what = f"{chunk.dtype} {list(chunk.shape)}"
    raise JobFailed(f"a decoder yields uint8 arrays [n, H, W, 3] or tensors [n, 3, H, W] in [0, 1]; this one: {what}")


def pixels(chunks: Iterable[Pixels | Audio]) -> Iterator[Pixels]:
    """The chunks of a decode without its sound."""
    return (chunk for chunk in chunks if not isinstance(chunk, Audio))


def last_frame(chunks: Iterable[Pixels | Audio]) -> Picture:
    """Decode to the end and keep the last frame. There must be at least one."""
    (last,) = deque(pixels(chunks), maxlen=1)
    (frame,) = to_frames([last[-1:]])
    return Picture(frame)


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
