"""The mp4 that leaves the service."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np

from pipelines.video import contact_sheet, encode_mp4, read_frames

FRAMES = [np.full((64, 96, 3), 20 * i, np.uint8) for i in range(9)]


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
