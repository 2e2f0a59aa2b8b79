"""Stable Video Diffusion in the running service: an image in, a video out, on the same road as every other model."""

from __future__ import annotations

from pathlib import Path

from pipelines.video import read_frames
from tests.conftest import ServiceClient
from tests.harness.data_urls import EXAMPLE as PICTURE
from training.detect import detect


def test_makes_a_video_from_an_image_alone(service: ServiceClient) -> None:
    response = service.http.post("/v1/videos", json={"model": "svd-tiny", "input_reference": PICTURE, "seed": 1})
    video = service.finish(response.json()["id"])
    assert set(video["stage_seconds"]) == {"image_encode", "denoise", "decode", "publish"}
    assert "prompt_used" not in video["result_metadata"]
    assert video["parameters"] | {"motion_bucket_id": 127, "decode_chunk_size": 9} == video["parameters"]


def test_says_that_a_prompt_is_not_used(service: ServiceClient) -> None:
    made = [
        service.create(model="svd-tiny", input_reference=PICTURE, seed=5, prompt=prompt)
        for prompt in ("moves left", "stays still")
    ]
    assert [video["result_metadata"] for video in made] == [{"prompt_used": False}] * 2
    finished = [service.finish(video["id"]) for video in made]
    assert all(video["result_metadata"]["prompt_used"] is False for video in finished)
    first, second = (service.content(video["id"]) for video in finished)
    assert first == second


def test_more_motion_goes_further(service: ServiceClient, tmp_path: Path) -> None:
    ways = []
    for bucket in (20, 235):
        video = service.create(model="svd-tiny", input_reference=PICTURE, seed=2, motion_bucket_id=bucket)
        path = tmp_path / f"{bucket}.mp4"
        path.write_bytes(service.content(service.finish(video["id"])["id"]))
        seen = detect(read_frames(path))
        assert seen.motion == "right"
        ways.append(seen.dx)
    assert ways[0] < ways[1]


def test_a_chunk_size_that_does_not_divide_the_frames(service: ServiceClient, tmp_path: Path) -> None:
    video = service.create(
        model="svd-tiny", input_reference=PICTURE, num_frames=10, decode_chunk_size=4, width=72, max_guidance_scale=2
    )
    path = tmp_path / "video.mp4"
    path.write_bytes(service.content(service.finish(video["id"])["id"]))
    assert [frame.shape for frame in read_frames(path)] == [(64, 72, 3)] * 10
