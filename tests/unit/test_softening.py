"""A given picture is softened into what a frame of a video looks like, with the same pixels everywhere."""

from __future__ import annotations

import subprocess
import sys
from io import BytesIO

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipelines.ltx.softening import softened
from pipelines.paths import ROOT
from pipelines.video import H264

NOISE = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
Y, X = np.mgrid[0:64, 0:96]
GENTLE = np.stack([2 * X + 30, 3 * Y + 20, 200 - X - Y // 2], axis=-1).astype(np.uint8)


def after(pixels: NDArray[np.uint8], *, blur: bool = False, crf: int | None = None) -> NDArray[np.int64]:
    result = softened(Image.fromarray(pixels), blur=blur, crf=crf)
    assert (result.size, result.mode) == ((pixels.shape[1], pixels.shape[0]), "RGB")
    return np.asarray(result).astype(int)


def test_nothing_is_done_unless_it_is_asked_for() -> None:
    assert np.array_equal(after(NOISE), NOISE)


def test_the_blur_is_a_gaussian_with_reflected_edges() -> None:
    weights = {(dy, dx): np.exp(-(dy * dy + dx * dx) / 2) for dy in (-1, 0, 1) for dx in (-1, 0, 1)}
    rows, columns = [1, *range(64), 62], [1, *range(96), 94]
    around = NOISE[rows][:, columns].astype(float)
    blurred = sum(
        weight * around[1 + dy : 65 + dy, 1 + dx : 97 + dx] for (dy, dx), weight in weights.items()
    ) / sum(weights.values())  # fmt: skip
    assert np.array_equal(after(NOISE, blur=True), np.rint(blurred))


def test_the_compression_loses_detail_the_more_the_higher_the_crf() -> None:
    gray = np.repeat(NOISE[..., :1], 3, axis=2)
    losses = [np.abs(after(gray, crf=crf) - gray).mean() for crf in (10, 29, 45)]
    assert losses[0] < 1 < 4 < losses[1] < 8 < losses[2]


@pytest.mark.parametrize("color", [(255, 255, 255), (0, 0, 0), (128, 128, 128), (200, 30, 90), (0, 0, 255)], ids=str)
def test_a_flat_picture_keeps_its_color(color: tuple[int, int, int]) -> None:
    pixels = np.full((64, 96, 3), color, np.uint8)
    assert np.abs(after(pixels, blur=True, crf=29) - pixels).max() <= 1


def test_the_blur_comes_before_the_compression() -> None:
    first = after(NOISE, blur=True).astype(np.uint8)
    assert np.array_equal(after(NOISE, blur=True, crf=29), after(first, crf=29))


def test_the_compression_is_the_makers() -> None:
    """They write an mp4 and read it back, by FFmpeg's quickest conversion of colors."""
    file = BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=1, options={"crf": "29", "preset": "veryfast"})
        stream.height, stream.width = GENTLE.shape[:2]
        stream.pix_fmt = "yuv420p"
        for packet in (*stream.encode(av.VideoFrame.from_ndarray(GENTLE, format="rgb24")), *stream.encode(None)):
            container.mux(packet)
    with av.open(BytesIO(file.getvalue())) as container:
        (theirs,) = [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]
    ours = after(GENTLE, crf=29)
    assert np.abs(ours - theirs).mean() < 2
    assert np.abs(ours - GENTLE).mean() <= np.abs(theirs - GENTLE).mean()


HERE = """
import hashlib, sys
import numpy as np
from PIL import Image
from pipelines.ltx.softening import softened
from tests.unit.encoding import hide_vector_units, moving
if sys.argv[1:]:
    hide_vector_units()
for size in ((64, 96), (192, 320)):
    image = Image.fromarray(moving(*size)[0])
    for _ in range(2):
        print(hashlib.sha256(np.asarray(softened(image, blur=True, crf=29)).tobytes()).hexdigest())
"""


def test_the_pixels_are_the_same_twice_and_on_a_cpu_without_vector_units() -> None:
    here, elsewhere = (
        subprocess.run(
            [sys.executable, "-c", HERE, *words], capture_output=True, check=True, cwd=ROOT, text=True
        ).stdout.split()
        for words in ([], ["without"])
    )
    assert here == elsewhere
    assert (here[0], here[2]) == (here[1], here[3])
    assert len(set(here)) == 2


def test_x264_is_told_what_keeps_a_video_the_same_on_every_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another CPU cannot be had here, so that the settings are passed on is shown with one that every CPU can see."""
    before = after(NOISE, crf=29)
    monkeypatch.setitem(H264, "x264-params", f"{H264['x264-params']}:no-deblock=1")
    assert not np.array_equal(after(NOISE, crf=29), before)


def test_a_picture_of_an_odd_size_is_not_one_of_a_video() -> None:
    with pytest.raises(AssertionError, match="the picture is 95x64"):
        softened(Image.new("RGB", (95, 64)), blur=True, crf=None)
