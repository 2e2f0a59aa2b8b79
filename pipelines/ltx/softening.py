"""Soften a given picture into what a frame of a video looks like, on which LTX-Video was trained.

Source: LTX-Video's `inference.py`, which blurs a given picture, and `crf_compressor.py`, which then compresses it as
one frame of H.264. They round the blurred picture towards zero; here it is rounded to the nearest level, so that a flat
picture keeps its color.
"""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray
from PIL import Image

from pipelines.color import EXACT, TO_RGB
from pipelines.video import H264

Pixels = NDArray[np.uint8]  # [H, W, 3] RGB

# The weights of a Gaussian of sigma 1 at -1, 0 and 1.
_SIDE, _MIDDLE = np.array([np.exp(-0.5), 1.0]) / (1 + 2 * np.exp(-0.5))


def softened(image: Image.Image, *, blur: bool, crf: int | None) -> Image.Image:
    """An RGB picture after a Gaussian blur and H.264 compression, with the same pixels on every CPU.

    The picture has the video's size already, so its sides are even, as H.264 demands of yuv420p.

    Args:
        blur: whether to blur, with a kernel of 3x3 pixels and sigma 1.
        crf: the constant rate factor, 0 to 51; None does not compress.
    """
    if not blur and crf is None:
        return image
    assert all(side % 2 == 0 for side in image.size), f"the picture is {image.width}x{image.height}"
    pixels = np.asarray(image)
    if blur:
        pixels = _blurred(pixels)
    if crf is not None:
        pixels = _compressed(pixels, crf)
    return Image.fromarray(pixels)


def _blurred(pixels: Pixels) -> Pixels:
    # Plain sums give the same bits everywhere; convolutions of libraries may fuse them as the CPU likes.
    padded = np.pad(pixels.astype(np.float64), ((1, 1), (1, 1), (0, 0)), mode="reflect")
    rows = _SIDE * (padded[:-2] + padded[2:]) + _MIDDLE * padded[1:-1]
    both = _SIDE * (rows[:, :-2] + rows[:, 2:]) + _MIDDLE * rows[:, 1:-1]
    return np.rint(both).astype(np.uint8)


def _compressed(pixels: Pixels, crf: int) -> Pixels:
    reformatter = VideoReformatter()
    encoder = av.CodecContext.create("libx264", "w")
    encoder.height, encoder.width = pixels.shape[:2]
    encoder.pix_fmt = "yuv420p"
    encoder.time_base, encoder.framerate = Fraction(1), Fraction(1)
    encoder.thread_count = 1
    encoder.options = {**H264, "preset": "veryfast", "crf": str(crf)}
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
    yuv = reformatter.reformat(frame, format="yuv420p", interpolation=Interpolation.BILINEAR | EXACT, threads=1)
    packets = [*encoder.encode(yuv), *encoder.encode(None)]
    decoder = av.CodecContext.create("h264", "r")
    (decoded,) = [each for packet in [*packets, None] for each in decoder.decode(packet)]
    # The makers' container is left out: it holds these packets and changes no pixel.
    rgb = reformatter.reformat(decoded, format="rgb24", interpolation=TO_RGB, threads=1)
    return rgb.to_ndarray().astype(np.uint8, copy=False)
