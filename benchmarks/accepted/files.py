"""Finished videos: their colors, their length to the frame, and the very size that was asked for."""

from __future__ import annotations

import io
from collections.abc import Iterator
from fractions import Fraction
from functools import partial

import av

from benchmarks.accepted.cases import GOOD, Case, Service, outcome

BT709, LIMITED = 1, 1


def file_cases() -> Iterator[Case]:
    yield Case("files", "colors: BT.709, limited range, said in the file", _colors)
    for size, seconds in (("720x1280", 4), ("1280x720", 8), ("1024x1792", 4), ("1792x1024", 4)):
        yield Case("files", f"`size: {size}`, `seconds: {seconds}`", partial(_shape, size=size, seconds=seconds))
    odd = partial(_shape, size="853x481", seconds=1, actual="854x482")
    yield Case("files", "an odd size, `853x481`: even, and said", odd)


def _made(service: Service, **fields: object) -> tuple[str, bytes]:
    """What is wrong, or a finished video's file."""
    answer = service.create(model="simulated", num_inference_steps=1, **fields)
    if answer.status_code != 200:
        return outcome(answer), b""
    path = f"/v1/videos/{answer.json()['id']}"
    while (video := service.http.get(path).json())["status"] in ("queued", "in_progress"):
        service.http.get(f"{path}/events")
    if video["status"] != "completed":
        return f"failed: {video['error']}", b""
    return "", service.http.get(f"{path}/content").content


def _colors(service: Service) -> str:
    wrong, mp4 = _made(service, size="704x480", seconds="1")
    if wrong:
        return wrong
    with av.open(io.BytesIO(mp4)) as container:
        codec = container.streams.video[0].codec_context
        said = (codec.color_primaries, codec.color_trc, codec.colorspace, codec.color_range)
    return GOOD if said == (BT709, BT709, BT709, LIMITED) else f"said: {said}"


def _shape(service: Service, size: str, seconds: int, actual: str | None = None) -> str:
    wrong, mp4 = _made(service, size=size, seconds=str(seconds))
    if wrong:
        return wrong
    with av.open(io.BytesIO(mp4)) as container:
        stream = container.streams.video[0]
        frames = sum(1 for _ in container.decode(stream))
        length = Fraction(container.duration or 0, av.time_base)
        shown = f"{stream.width}x{stream.height}"
        rate = stream.average_rate or Fraction(0)
    if (shown, frames) == (actual or size, round(seconds * rate)) and abs(length - seconds) < Fraction(1, 1000):
        return GOOD
    return f"{shown}, {frames} frames at {rate}, {float(length):.3f} s"
