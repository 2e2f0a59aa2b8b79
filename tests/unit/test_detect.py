"""The judge agrees with the world: on clips drawn without any model it is right about everything."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from pipelines.video import encode_mp4, read_frames
from training.detect import detect
from training.world import COMBINATIONS, render, sample_scene


@pytest.mark.long
def test_is_right_about_every_combination_after_video_compression(tmp_path: Path) -> None:
    rng = random.Random(5)
    wrong = []
    for combination in COMBINATIONS:
        scene = sample_scene(rng, [combination])
        clip = ((render([scene], 9, 64, 64)[0] + 1) * 127.5).round().byte().permute(1, 2, 3, 0).numpy()
        path = tmp_path / "clip.mp4"
        path.write_bytes(encode_mp4(clip, 8, {}))
        seen = detect(read_frames(path))
        if (seen.color, seen.shape, seen.motion, seen.background) != combination:
            wrong.append((combination, seen))
    assert not wrong


def test_an_empty_video_shows_nothing() -> None:
    blank = render([sample_scene(random.Random(0))], 9, 64, 64)[0] * 0 - 1
    seen = detect(((blank + 1) * 127.5).byte().permute(1, 2, 3, 0).numpy())
    assert (seen.color, seen.shape, seen.motion, seen.background) == (None, None, None, "black")
