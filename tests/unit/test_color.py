"""A video's file has the colors of its frames, in every player that reads what the file says of itself."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext
from numpy.typing import NDArray

from pipelines.color import Frame, ToYuv
from pipelines.video import encode_mp4, read_frames
from tests.harness.boxes import payload
from tests.harness.browser import CHROMIUM, watch

PATCHES = [
    (255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 255, 255),
    (255, 0, 255), (255, 255, 0), (0, 0, 0), (255, 255, 255),
    (128, 128, 128), (255, 128, 0), (40, 90, 160), (200, 170, 150),
]  # fmt: skip
COLUMNS, ROWS = 4, 3
SIZES = [(256, 192), (704, 480), (1280, 720), (720, 1280)]
"""Players guess the colors of a file without tags by its size."""
BT709, LIMITED = 1, 1
CHROMIUM_S = 120


def patches(width: int, height: int) -> Frame:
    frame = np.zeros((height, width, 3), np.uint8)
    for index, color in enumerate(PATCHES):
        row, column = divmod(index, COLUMNS)
        rows = slice(height * row // ROWS, height * (row + 1) // ROWS)
        frame[rows, width * column // COLUMNS : width * (column + 1) // COLUMNS] = color
    return frame


def places(width: int, height: int) -> list[tuple[int, int]]:
    """The middle (x, y) of each patch."""
    return [
        (width * (2 * column + 1) // (2 * COLUMNS), height * (2 * row + 1) // (2 * ROWS))
        for row in range(ROWS)
        for column in range(COLUMNS)
    ]


def worst(seen: NDArray[np.float64] | list[list[int]]) -> float:
    return float(np.abs(np.asarray(seen, float) - PATCHES).max())


def planes(frame: av.VideoFrame) -> list[NDArray[np.float64]]:
    """Y, Cb and Cr of a frame, each of its own size."""
    return [
        np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width].astype(float)
        for plane in frame.planes
    ]


def by_the_book(frame: av.VideoFrame, at: list[tuple[int, int]]) -> NDArray[np.float64]:
    """The RGB of pixels, by the formulas of ITU-R BT.709-6, items 3.3 and 3.4, in limited range."""
    luma, blue, red = (
        np.array([plane[y * len(plane) // frame.height, x * plane.shape[1] // frame.width] for x, y in at])
        for plane in planes(frame)
    )
    y, cb, cr = (luma - 16) / 219, (blue - 128) / 224, (red - 128) / 224
    r, b = y + 1.5748 * cr, y + 1.8556 * cb
    return np.clip(np.stack([r, (y - 0.2126 * r - 0.0722 * b) / 0.7152, b], axis=1), 0, 1) * 255


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_file_says_what_its_colors_are_and_a_decoder_gets_them(tmp_path: Path, width: int, height: int) -> None:
    path = tmp_path / "v.mp4"
    path.write_bytes(encode_mp4([patches(width, height)] * 2, 7, {}))
    at = places(width, height)
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    tags = frame.color_range, frame.colorspace, frame.color_primaries, frame.color_trc
    assert tags == (LIMITED, BT709, BT709, BT709)
    assert worst(by_the_book(frame, at)) <= 2
    decoded = next(read_frames(path))
    assert worst([decoded[y, x].tolist() for x, y in at]) <= 2
    plain = frame.to_ndarray(format="rgb24")  # by ffmpeg's own settings
    assert worst([plain[y, x].tolist() for x, y in at]) <= 2


def test_the_container_and_the_stream_say_it_each() -> None:
    """Players on Apple's systems read the box, most others the stream."""
    data = encode_mp4([patches(64, 48)] * 3, 7, {})
    color = payload(data, "moov", "trak", "mdia", "minf", "stbl", "stsd", "avc1", "colr")
    assert color == b"nclx" + bytes([0, 1, 0, 1, 0, 1, 0x00]), "primaries, transfer, matrix; not of full range"
    assert alone(data) == (LIMITED, BT709, BT709, BT709)


def alone(data: bytes) -> tuple[int, ...]:
    """The tags of the H.264 stream without its container."""
    decoder = av.CodecContext.create("h264", "r")
    assert isinstance(decoder, av.VideoCodecContext)
    with av.open(BytesIO(data)) as container:
        bare = BitStreamFilterContext("h264_mp4toannexb", container.streams.video[0])
        packets = [av.Packet(bytes(each)) for packet in container.demux(video=0) for each in bare.filter(packet)]
    frame = next(each for packet in [*packets, None] for each in decoder.decode(packet))
    return frame.color_range, frame.colorspace, frame.color_primaries, frame.color_trc


def test_chroma_is_sampled_at_the_left_column_where_decoders_of_h264_look_for_it() -> None:
    for edge, share in ((16, 0.75), (17, 0.25)):  # of the columns 15, 16 and 17, whose weights are 1, 2 and 1
        pixels = np.zeros((16, 32, 3), np.uint8)
        pixels[:, edge:] = (255, 0, 0)
        _, _, red = planes(ToYuv(32, 16, 8)(pixels, 0))
        assert (red[4, 7], red[4, 8]) == (128, 128 + share * 112)


@pytest.mark.parametrize("threads", [2, 3])
def test_the_conversion_does_not_depend_on_its_threads(threads: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 328, 3), np.uint8)
    one, many = (ToYuv(328, 200, 8, threads=each)(noise, 0) for each in (1, threads))
    assert all(np.array_equal(a, b) for a, b in zip(planes(one), planes(many), strict=True))


def test_gray_stays_gray_at_every_level() -> None:
    levels = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 16, axis=0).repeat(3, axis=2)
    luma, blue, red = planes(ToYuv(256, 16, 8)(levels, 0))
    assert set(blue.flat) == set(red.flat) == {128}
    assert np.abs(luma[0] - (16 + 219 * np.arange(256) / 255)).max() <= 0.51


@pytest.mark.long
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_chromium_shows_the_colors_and_the_length() -> None:
    videos = [(encode_mp4([patches(*size)] * 5, 7, {}), places(*size)) for size in SIZES]
    for (width, height), seen in zip(SIZES, watch(videos, CHROMIUM_S), strict=True):
        assert (seen.width, seen.height, seen.colors) == (
            width, height, {"fullRange": False, "matrix": "bt709", "primaries": "bt709", "transfer": "bt709"},
        )  # fmt: skip
        assert worst(seen.pixels) <= 2
        assert seen.duration == pytest.approx(5 / 7, abs=1e-5)
