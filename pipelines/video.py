"""Encode frames to an mp4 that plays in a browser, and read them back.

The same frames and metadata give the same bytes on every CPU: the file contains no time or host name, and neither the
color conversion nor x264 may choose kernels that round differently.

All frames are equally long, the first is shown at 0, and the file ends with the last one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from PIL import Image

from pipelines.card import Parameters
from pipelines.color import Frame, ToYuv, tag, to_rgb
from pipelines.disk import temporary_files
from pipelines.errors import JobFailed
from pipelines.output import Output, RenderedVideo
from pipelines.protocols import Audio
from pipelines.reshaping import reshaped
from pipelines.shape import even
from pipelines.stills import Stills

H264 = {
    "preset": "medium",
    # x264 chooses kernels by the CPU, and its lookahead for AVX-512 is not even repeatable: it made a different file
    # from the same small video at nearly every call.
    "x264-params": "cpu-independent=1",
}
# The muxer's own unit for the length of the whole file is a millisecond, into which few frames fit exactly.
_TICKS_PER_FRAME = 1000


def render(
    frames: Iterable[Frame | Audio],
    parameters: Parameters,
    metadata: Mapping[str, object],
    output: Output,
    *,
    threads: int = 1,
) -> RenderedVideo:
    """Make every file of a video in one pass over its frames.

    The frames are those that are rendered; the files have the shape that `output` says. The video's sound, if it has
    any, comes before the frames; it is cut where the file's frames end.

    Raises:
        JobFailed: the frames are not those that `parameters` say.
    """
    audio, frames = split_sound(frames)
    video = output.delivered(parameters)
    frames = reshaped(_first(_checked(frames, parameters), video.num_frames), video.width, video.height)
    if audio is not None:
        audio = replace(audio, samples=audio.samples[:, : audio.rate * video.num_frames // video.fps])
    stills = Stills(video.num_frames, thumbnail=output.thumbnail, spritesheet=output.spritesheet)
    mp4 = encode_mp4(stills.passing(frames), video.fps, metadata, audio=audio, crf=output.crf, threads=threads)
    return RenderedVideo(mp4, stills.thumbnail(), stills.spritesheet())


def _checked(frames: Iterable[Frame], parameters: Parameters) -> Iterator[Frame]:
    """The same frames.

    Raises:
        JobFailed: there are more or fewer than the video has, or they have another size.
    """
    shape, seen = (parameters.height, parameters.width, 3), 0
    for frame in frames:
        seen += 1
        if frame.shape != shape:
            raise JobFailed(f"a frame is {frame.shape[1]}x{frame.shape[0]}; the video is {shape[1]}x{shape[0]}")
        yield frame
    if seen != parameters.num_frames:
        raise JobFailed(f"the decoder yielded {seen} frames; the video has {parameters.num_frames}")


def _first(frames: Iterable[Frame], num_frames: int) -> Iterator[Frame]:
    """The first frames; the others are taken too, so that their number is checked."""
    for index, frame in enumerate(frames):
        if index < num_frames:
            yield frame


def split_sound(items: Iterable[Frame | Audio]) -> tuple[Audio | None, Iterator[Frame]]:
    """The sound at the head of a decode, if it has any, and its frames."""
    iterator = iter(items)
    first = next(iterator, None)
    rest = (item for item in iterator if not isinstance(item, Audio))
    if isinstance(first, Audio):
        return first, rest
    return None, rest if first is None else chain((first,), rest)


def encode_mp4(
    frames: Iterable[Frame],
    fps: int,
    metadata: Mapping[str, object],
    *,
    audio: Audio | None = None,
    crf: int = 18,
    threads: int = 1,
) -> bytes:
    """Encode frames as H.264 (yuv420p) and `audio` as AAC, with the index in front and `metadata` in the comment.

    A frame with an odd side gets its last row or column twice. `metadata` is written as JSON. `crf` is the constant
    rate factor, 0 (lossless) to 51 (worst).

    It takes frames one at a time, so a decoder may still be producing them.

    Raises:
        ReplicaUnavailable: the disk for temporary files is full.
    """
    with temporary_files(), TemporaryDirectory(prefix="kinoray-mp4-") as folder:
        # The muxer moves the index to the front in a second pass, which needs a real file.
        path = Path(folder) / "video.mp4"
        options = {
            "movflags": "+faststart", "fflags": "+bitexact", "movie_timescale": str(fps * _TICKS_PER_FRAME),
        }  # fmt: skip
        with av.open(str(path), "w", options=options) as container:
            container.metadata["comment"] = json.dumps(metadata, sort_keys=True)
            stream = None
            for index, pixels in enumerate(_even(frames)):
                if stream is None:
                    stream = container.add_stream("libx264", rate=Fraction(fps), options={**H264, "crf": str(crf)})
                    stream.height, stream.width = pixels.shape[:2]
                    stream.pix_fmt = "yuv420p"
                    stream.codec_context.thread_count = threads
                    tag(stream.codec_context)
                    to_yuv = ToYuv(stream.width, stream.height, fps, threads=threads)
                    if audio is not None:
                        _add_sound(container, audio)
                for packet in stream.encode(to_yuv(pixels, index)):
                    container.mux(packet)
            assert stream is not None, "a video needs at least one frame"
            for packet in stream.encode():
                container.mux(packet)
        return path.read_bytes()


def _even(frames: Iterable[Frame]) -> Iterator[Frame]:
    iterator = iter(frames)
    first = next(iterator, None)
    if first is None:
        return iterator
    height, width = first.shape[:2]
    return reshaped(chain((first,), iterator), even(width), even(height))


def _add_sound(container: Any, audio: Audio) -> None:
    """Encode the whole sound; the muxer interleaves it with the frames that follow."""
    layout = "mono" if len(audio.samples) == 1 else "stereo"
    stream = container.add_stream("aac", rate=audio.rate, layout=layout)
    frame = av.AudioFrame.from_ndarray(audio.samples.astype(np.float32), format="fltp", layout=layout)
    frame.sample_rate = audio.rate
    frame.pts = 0  # else the samples that the encoder puts before the first are played, and all others late
    for packet in (*stream.encode(frame), *stream.encode(None)):
        container.mux(packet)


def read_frames(mp4: Path) -> Iterator[Frame]:
    """The frames of a video file, in order."""
    with av.open(str(mp4)) as container:
        reformatter = VideoReformatter()
        for frame in container.decode(video=0):
            yield to_rgb(frame, reformatter)


def contact_sheet(mp4: Path, columns: int = 9, scale: int = 2) -> Image.Image:
    """Place evenly spaced frames of a video side by side, with a light line between, enlarged without smoothing."""
    frames = list(read_frames(mp4))
    chosen = [frames[round(i)] for i in np.linspace(0, len(frames) - 1, min(columns, len(frames)))]
    line = np.full((len(chosen[0]), 1, 3), 200, np.uint8)
    strips = [strip for frame in chosen for strip in (frame, line)][:-1]
    sheet = Image.fromarray(np.concatenate(strips, axis=1))
    return sheet.resize((sheet.width * scale, sheet.height * scale), Image.Resampling.NEAREST)
