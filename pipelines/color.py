"""The colors of a video's file: BT.709 in limited range, as players take it from the tags, and the way back to RGB.

A file without tags is BT.601 to some players and BT.709 to others, mostly by its height, so the file says what it is.
The frames are sRGB. Their curve is tagged as BT.709's, as cameras and editors do: players show both alike, while some
of them do not know the tag of sRGB's own and change the picture.
"""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation, VideoReformatter
from numpy.typing import NDArray

Frame = NDArray[np.uint8]  # [H, W, 3] RGB

EXACT = Interpolation.ACCURATE_RND | Interpolation.BITEXACT
"""Without these flags, libswscale's rounding depends on the CPU's vector unit."""
TO_RGB = Interpolation.BILINEAR | Interpolation.FULL_CHR_H_INT | EXACT
"""Without the second flag, a picture gets darker on its way to RGB: white becomes 253."""

# A chroma sample lies at the left one of its two columns, where decoders of H.264 look for it unless they are told.
# Without full_chroma_inp, libswscale sees every other column only.
_SCALE = "out_color_matrix=bt709:out_range=tv:out_chroma_loc=left:flags=bilinear+full_chroma_inp+accurate_rnd+bitexact"


class ToYuv:
    """Converts the RGB frames of a video to yuv420p, to the same bytes on every CPU."""

    def __init__(self, width: int, height: int, fps: int, *, threads: int = 1) -> None:
        self._time_base = Fraction(1, fps)
        self._graph = av.filter.Graph()
        self._graph.threads = threads
        source = self._graph.add_buffer(
            width=width, height=height, format=av.VideoFormat("rgb24"), time_base=self._time_base
        )
        self._graph.link_nodes(
            source,
            self._graph.add("scale", _SCALE),
            self._graph.add("format", "yuv420p"),
            self._graph.add("buffersink"),
        ).configure()

    def __call__(self, pixels: Frame, index: int) -> av.VideoFrame:
        """A frame as yuv420p; `index` is its place in the video."""
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame.time_base, frame.pts = self._time_base, index
        self._graph.push(frame)
        yuv = self._graph.pull()
        assert isinstance(yuv, av.VideoFrame)
        return yuv


def tag(encoder: av.VideoCodecContext) -> None:
    """Have an encoder write into its stream what `ToYuv` makes; a container repeats it in its own index."""
    encoder.color_range = ColorRange.MPEG
    encoder.colorspace = Colorspace.ITU709
    encoder.color_primaries = ColorPrimaries.BT709
    encoder.color_trc = ColorTrc.BT709


def to_rgb(frame: av.VideoFrame, reformatter: VideoReformatter) -> Frame:
    """A decoded frame as [H, W, 3] RGB, by its own tags; the same bytes on every CPU."""
    rgb = reformatter.reformat(frame, format="rgb24", interpolation=TO_RGB, threads=1)
    return rgb.to_ndarray().astype(np.uint8, copy=False)
