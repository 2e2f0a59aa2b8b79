"""The files that leave the service."""

from __future__ import annotations

import json
import os
import pickle
import random
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from deployments.stages.worker import payload_bytes
from pipelines.catalogue import get_card
from pipelines.color import Frame
from pipelines.errors import JobFailed
from pipelines.output import Output, RenderedVideo
from pipelines.paths import ROOT
from pipelines.protocols import Audio
from pipelines.requests import GenerationRequest, resolve
from pipelines.video import contact_sheet, encode_mp4, read_frames, render
from tests.unit.encoding import digest, moving

FRAMES = [np.full((64, 96, 3), 20 * i, np.uint8) for i in range(9)]
NOISE = [np.random.default_rng(i).integers(0, 256, (64, 96, 3), np.uint8) for i in range(9)]
PARAMETERS = resolve(
    GenerationRequest(prompt="a", width=96, height=64, num_frames=9, fps=8, seed=1), get_card("ltx-tiny")
)


FULL = """
import resource, sys, tempfile
import numpy as np
from pipelines.errors import ReplicaUnavailable
from pipelines.video import encode_mp4

frames = [np.random.default_rng(i).integers(0, 256, (64, 96, 3), np.uint8) for i in range(30)]
whole = encode_mp4(frames, 8, {})
for limit in (0, 1000, len(whole) // 2):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        encode_mp4(frames, 8, {})
    except ReplicaUnavailable as error:
        print(error.message, flush=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert encode_mp4(frames, 8, {}) == whole
"""


def test_a_full_temporary_folder_is_the_replicas_fault_and_left_empty(tmp_path: Path) -> None:
    """A limit on the size of files is what a process without rights can fill."""
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", FULL], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = f"the temporary folder {tmp_path} of a replica's machine is full: make room in it, or set TMPDIR to another"
    assert done.stdout.splitlines() == [said] * 3
    assert list(tmp_path.iterdir()) == []


def test_is_deterministic_playable_and_starts_fast(tmp_path: Path) -> None:
    metadata = {"model": "m", "seed": 1}
    data = encode_mp4(FRAMES, 8, metadata)
    assert data == encode_mp4(iter(FRAMES), 8, metadata)
    assert data.index(b"moov") < data.index(b"mdat"), "the index comes first"
    path = tmp_path / "v.mp4"
    path.write_bytes(data)
    with av.open(str(path)) as container:
        assert json.loads(container.metadata["comment"]) == metadata
        assert (container.streams.video[0].frames, container.streams.video[0].average_rate) == (9, 8)
    decoded = list(read_frames(path))
    assert all(abs(int(a.mean()) - int(b.mean())) <= 3 for a, b in zip(decoded, FRAMES, strict=True))
    assert contact_sheet(path, columns=3, scale=2).size == ((96 * 3 + 2) * 2, 64 * 2)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (96, 64), (64, 96), (96, 96), (192, 256)])
def test_the_same_frames_are_the_same_files_whatever_the_memory_holds(height: int, width: int) -> None:
    """x264's code for AVX-512 does not pass: of forty files of 96x64 nine were different."""
    frames, parameters = moving(height, width), PARAMETERS.model_copy(update={"width": width, "height": height})
    dice, held = random.Random(0), list[bytes]()
    digests = set()
    for _ in range(40):
        held = [*held[-200:], *(dice.randbytes(dice.randrange(200_000)) for _ in range(20))]
        rendered = render(frames, parameters, {}, Output())
        digests.add(tuple(digest(each) for each in (rendered.mp4, rendered.thumbnail, rendered.spritesheet)))
    assert len(digests) == 1


def test_the_same_frames_are_the_same_file_on_a_cpu_without_vector_units() -> None:
    here, elsewhere = (
        subprocess.run(
            [sys.executable, "-m", "tests.unit.encoding", *words],
            capture_output=True, check=True, cwd=ROOT, text=True,
        ).stdout
        for words in ([], ["without-vector-units"])
    )  # fmt: skip
    assert here == elsewhere != ""


def test_crf_trades_quality_for_bytes(tmp_path: Path) -> None:
    sizes, errors = [], []
    for crf in (10, 18, 40):
        path = tmp_path / f"{crf}.mp4"
        path.write_bytes(encode_mp4(NOISE, 8, {}, crf=crf))
        sizes.append(path.stat().st_size)
        errors.append(np.mean([np.abs(a.astype(int) - b) for a, b in zip(read_frames(path), NOISE, strict=True)]))
    assert sizes == sorted(sizes, reverse=True)
    assert errors == sorted(errors)
    assert len(set(sizes)) == 3
    assert encode_mp4(NOISE, 8, {}) == (tmp_path / "18.mp4").read_bytes()


def test_one_pass_makes_every_file() -> None:
    metadata = {"model": "m"}
    rendered = render(iter(FRAMES), PARAMETERS, metadata, Output(crf=30))
    assert rendered.mp4 == encode_mp4(FRAMES, 8, metadata, crf=30), "watching the frames does not change the video"
    assert rendered.thumbnail is not None
    assert rendered.spritesheet is not None
    assert abs(int(np.asarray(Image.open(BytesIO(rendered.thumbnail))).mean()) - 80) <= 2, "the middle frame"
    assert Image.open(BytesIO(rendered.spritesheet)).size == (5 * 96, 2 * 64)
    sizes = [len(rendered.mp4), len(rendered.thumbnail), len(rendered.spritesheet)]
    assert payload_bytes(rendered) == sum(sizes)


def test_makes_only_what_is_wanted() -> None:
    none = render(FRAMES, PARAMETERS, {}, Output(thumbnail=False, spritesheet=False))
    assert (none.thumbnail, none.spritesheet) == (None, None)
    assert payload_bytes(none) == len(none.mp4)
    both = render(FRAMES, PARAMETERS, {}, Output())
    poster = render(FRAMES, PARAMETERS, {}, Output(spritesheet=False))
    assert (poster.thumbnail, poster.spritesheet) == (both.thumbnail, None)
    sheet = render(FRAMES, PARAMETERS, {}, Output(thumbnail=False))
    assert (sheet.thumbnail, sheet.spritesheet) == (None, both.spritesheet)


def test_the_publisher_reads_a_rendered_video_without_torch_or_av() -> None:
    """It runs on a small machine, where importing them would cost seconds and hundreds of megabytes."""
    code = (
        "import pickle, sys; rendered = pickle.load(sys.stdin.buffer); "
        "print(rendered.mp4, sorted({'torch', 'av', 'ray'} & set(sys.modules)))"
    )
    data = pickle.dumps(RenderedVideo(b"mp4", b"thumbnail", None))
    shown = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True, cwd=ROOT)
    assert shown.stdout.decode().strip() == "b'mp4' []"


@pytest.mark.parametrize(
    ("frames", "says"),
    [
        (FRAMES[:-1], "the decoder yielded [0-9]+ frames; the video has"),
        ([*FRAMES, FRAMES[0]], "the decoder yielded [0-9]+ frames; the video has"),
        ([], "the decoder yielded 0 frames; the video has"),
        ([frame[:-2] for frame in FRAMES], "a frame is [0-9]+x[0-9]+; the video is"),
    ],
    ids=["too few", "too many", "none", "another size"],
)
def test_frames_that_are_not_the_videos_fail_the_job_with_a_sentence(frames: list[Frame], says: str) -> None:
    with pytest.raises(JobFailed, match=says):
        render(frames, PARAMETERS, {}, Output())


def test_sound_is_cut_where_the_frames_end() -> None:
    seconds = PARAMETERS.num_frames / PARAMETERS.fps
    rate = 8000
    sound = Audio(np.zeros((2, round(rate * (seconds + 3))), np.float32), rate)
    rendered = render([sound, *FRAMES], PARAMETERS, {}, Output())
    with av.open(BytesIO(rendered.mp4)) as container:
        samples = sum(frame.samples for frame in container.decode(audio=0))
        assert container.streams.audio[0].layout.name == "stereo"
    assert samples / rate == pytest.approx(seconds, abs=0.3)
