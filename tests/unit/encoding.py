"""Frames that move, and the digests of their files: as a command also on a CPU that has no vector units.

python -m tests.unit.encoding [without-vector-units]
"""

from __future__ import annotations

import ctypes
import hashlib
import sys
from pathlib import Path

import numpy as np

from pipelines import video
from pipelines.color import Frame
from pipelines.reshaping import reshaped


def moving(height: int, width: int) -> list[Frame]:
    """Nine frames of a pattern that moves, with no flat place."""
    y, x = np.mgrid[0:height, 0:width]
    return [np.stack([2 * x + 6 * i, 3 * y + i, x + y + i], axis=-1).astype(np.uint8) for i in range(9)]


def digest(data: bytes | None) -> str:
    return hashlib.sha256(data or b"").hexdigest()


def hide_vector_units() -> None:
    """What FFmpeg's libraries and x264 would find on another machine."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    (libavutil,) = {line.split()[-1] for line in maps if "libavutil" in line}
    ctypes.CDLL(libavutil).av_force_cpu_flags(0)
    video.H264["x264-params"] += ":asm=0"


if __name__ == "__main__":
    if sys.argv[1:] == ["without-vector-units"]:
        hide_vector_units()
    for size in ((64, 96), (200, 328)):
        sys.stdout.write(digest(video.encode_mp4(moving(*size), 8, {})) + "\n")
    enlarged = reshaped(moving(192, 320), 330, 200)
    sys.stdout.write(digest(b"".join(frame.tobytes() for frame in enlarged)) + "\n")
