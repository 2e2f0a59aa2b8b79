"""All frames of a file are equally long, the first one begins at 0, and the file ends with the last one."""

from __future__ import annotations

import struct
from fractions import Fraction
from io import BytesIO

import av
import numpy as np
import pytest

from pipelines.catalogue import get_card
from pipelines.output import Output
from pipelines.protocols import Audio
from pipelines.video import encode_mp4, render
from tests.harness.boxes import payload
from tests.unit.encoding import moving

PARAMETERS = get_card("ltx-tiny").default_parameters().model_copy(update={"width": 48, "height": 32})


def frames(number: int) -> list[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
    """They move, so that some of them become B-frames, which are stored before they are shown."""
    return (moving(32, 48) * (number // 9 + 1))[:number]


def times(header: bytes) -> tuple[int, Fraction]:
    """The units a second and the length in seconds, as a box `mvhd` or `mdhd` has them (ISO/IEC 14496-12, 8.2.2)."""
    assert header[0] == 0, "of version 0"
    scale, length = struct.unpack_from(">II", header, 12)
    return scale, Fraction(length, scale)


def edit(data: bytes, scale: int) -> Fraction:
    """The length of a track's one edit (8.6.6)."""
    edits = payload(data, "moov", "trak", "edts", "elst")
    version, count, length = struct.unpack_from(">III", edits)
    assert (version, count) == (0, 1)
    return Fraction(length, scale)


@pytest.mark.parametrize(
    ("number", "fps"), [(97, 24), (97, 7), *((number, fps) for fps in (1, 7, 25, 30, 120) for number in (1, 2, 10))]
)
def test_the_length_is_the_number_of_frames_over_the_rate(number: int, fps: int) -> None:
    data, length = encode_mp4(frames(number), fps, {}), Fraction(number, fps)
    scale, whole = times(payload(data, "moov", "mvhd"))
    _, track = times(payload(data, "moov", "trak", "mdia", "mdhd"))
    assert (whole, edit(data, scale), track) == (length, length, length)
    durations = payload(data, "moov", "trak", "mdia", "minf", "stbl", "stts")
    assert struct.unpack_from(">III", durations)[1:] == (1, number), "one length for all frames"
    with av.open(BytesIO(data)) as container:
        stream = container.streams.video[0]
        assert stream.duration is not None
        assert stream.time_base is not None
        assert (stream.start_time, stream.frames, stream.average_rate) == (0, number, fps)
        assert stream.duration * stream.time_base == length
        assert container.duration == pytest.approx(1e6 * length, abs=1)
        shown = [frame.pts * frame.time_base for frame in container.decode(video=0)]
    assert shown == [Fraction(index, fps) for index in range(number)]


@pytest.mark.parametrize(("number", "fps"), [(25, 7), (9, 8), (97, 24)])
def test_sound_begins_with_the_frames_and_does_not_change_the_length(number: int, fps: int) -> None:
    rate = 48000
    samples = np.zeros((2, rate * 20), np.float32)
    samples[:, rate // 2 : rate // 2 + 64] = 1
    video = PARAMETERS.model_copy(update={"num_frames": number, "fps": fps})
    data = render([Audio(samples, rate), *frames(number)], video, {}, Output()).mp4
    scale, whole = times(payload(data, "moov", "mvhd"))
    assert (whole, edit(data, scale)) == (Fraction(number, fps), Fraction(number, fps))
    with av.open(BytesIO(data)) as container:
        assert [stream.start_time for stream in container.streams] == [0, 0]
        blocks = [(each.pts, np.abs(each.to_ndarray()).max(axis=0)) for each in container.decode(audio=0)]
    heard = np.zeros(rate * 20)
    for at, block in blocks:
        begin = max(-at, 0)  # what is before 0 is not played
        heard[at + begin : at + len(block)] = block[begin:]
    assert np.argmax(heard > 0.3) == pytest.approx(rate // 2, abs=64)
