"""A job keeps the shape that its request asked of the file, beside what is rendered for it."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from deployments.http.queue_view import Place
from deployments.http.schemas import Video
from deployments.orchestration.requests import request_of
from deployments.stages.messages import DecodeRequest
from jobs.record import Job
from jobs.stored import ResultMetadata
from pipelines.catalogue import get_card
from pipelines.errors import InvalidRequest
from pipelines.families import graph_of
from pipelines.frames import Picture
from pipelines.ltx.outputs import FinalLatents
from pipelines.output import Output, RenderedVideo
from pipelines.requests import read_parameters
from pipelines.stages import Stage
from tests.unit.conftest import Jobs
from tests.unit.door import Door
from tests.unit.stage_world import call, replica, without_ray

Shown = tuple[str, str, dict[str, Any] | None]
LTX = "ltx-video-0.9.8-13b-distilled"


def video(job: Job) -> Video:
    return Video.of(job, Place(), {})


def shown(job: Job) -> Shown:
    """The size and length of the file, and what is rendered for it."""
    seen = video(job).model_dump(mode="json")
    return seen["size"], seen["seconds"], seen["rendered"]


def test_a_video_says_what_its_file_has_and_what_was_rendered(jobs: Jobs, tmp_path: Path) -> None:
    job = Door(jobs, tmp_path, models=(LTX,)).ask(fields={"size": "720x1280", "seconds": "4", "fps": 24})
    assert shown(jobs.get(job)) == ("720x1280", "4", {"size": "736x1280", "num_frames": 97})
    parameters = video(job).parameters
    assert (parameters["width"], parameters["height"], parameters["num_frames"]) == (736, 1280, 97)
    megapixels = 736 * 1280 * 97 / 1e6
    assert job.work["decode"] == pytest.approx(megapixels), "what is rendered is what it costs"
    assert job.result_metadata == ResultMetadata()


UNCHANGED: list[tuple[dict[str, Any], Shown]] = [
    ({}, ("64x64", "1.125", None)),
    ({"width": 96, "height": 64, "num_frames": 11}, ("96x64", "1.375", None)),
    ({"size": "96x64"}, ("96x64", "1.125", None)),
    ({"size": "96x64", "seconds": 1.125}, ("96x64", "1.125", None)),
    ({"seconds": 1}, ("64x64", "1", {"size": "64x64", "num_frames": 9})),
    ({"size": "90x64", "num_frames": 11}, ("90x64", "1.375", {"size": "96x64", "num_frames": 11})),
    ({"width": 96, "seconds": "1.0"}, ("96x64", "1", {"size": "96x64", "num_frames": 9})),
]


def test_what_needs_no_change_says_nothing(jobs: Jobs, tmp_path: Path) -> None:
    door = Door(jobs, tmp_path)
    for fields, expected in UNCHANGED:
        job = door.ask(fields={"prompt": "a red circle", **fields})
        assert (fields, shown(jobs.get(job))) == (fields, expected)
        assert job.result_metadata.warnings is None


def test_an_odd_size_becomes_even_and_the_job_says_so(jobs: Jobs, tmp_path: Path) -> None:
    job = jobs.get(Door(jobs, tmp_path).ask(fields={"prompt": "a red circle", "size": "65x49"}))
    assert shown(job) == ("66x50", "1.125", {"size": "96x64", "num_frames": 9})
    said = "odd_size: 65x49 has an odd side, which H.264 cannot have; the file is 66x50"
    assert job.result_metadata.warnings == (said,)


SOURCE = {"size": "90x50", "seconds": 1, "seed": 4}


REMIXED: list[tuple[dict[str, Any], Shown]] = [
    ({}, ("90x50", "1", {"size": "96x64", "num_frames": 9})),
    ({"size": None, "seconds": None}, ("90x50", "1", {"size": "96x64", "num_frames": 9})),
    ({"fps": 4}, ("90x50", "2", {"size": "96x64", "num_frames": 9})),
    ({"size": "64x64"}, ("64x64", "1", {"size": "64x64", "num_frames": 9})),
    ({"width": 64}, ("64x64", "1", {"size": "64x64", "num_frames": 9})),
    ({"seconds": 0.5}, ("90x50", "0.5", {"size": "96x64", "num_frames": 5})),
    ({"num_frames": 9}, ("90x50", "1.125", {"size": "96x64", "num_frames": 9})),
    ({"size": "64x96", "num_frames": 11}, ("64x96", "1.375", None)),
]


def test_a_remix_keeps_the_asked_shape_but_for_what_it_says(jobs: Jobs, tmp_path: Path) -> None:
    door = Door(jobs, tmp_path)
    source = door.ask(fields=SOURCE)
    for fields, expected in REMIXED:
        remix = door.ask(fields={"prompt": "q", **fields}, remix_of=source)
        assert (fields, shown(remix)) == (fields, expected)
        assert remix.parameters["seed"] == 4
        again = door.ask(fields={"prompt": "r"}, remix_of=remix)
        assert (again.parameters, shown(again)) == (remix.parameters, expected)


def test_a_row_of_an_older_version_has_the_shape_that_was_rendered(jobs: Jobs, tmp_path: Path) -> None:
    door = Door(jobs, tmp_path)
    old = replace(door.ask(), output={"thumbnail": True, "spritesheet": True, "crf": 18})
    assert shown(old) == ("64x64", "1.125", None)
    assert shown(door.ask(fields={"prompt": "q"}, remix_of=old)) == ("64x64", "1.125", None)
    assert shown(replace(old, output={})) == ("64x64", "1.125", None)


def test_a_remix_with_a_seed_of_minus_one_draws_another(jobs: Jobs, tmp_path: Path) -> None:
    door = Door(jobs, tmp_path)
    source = door.ask(fields={"seed": 4})
    seeds = {door.ask(fields={"seed": -1}, remix_of=source).parameters["seed"] for _ in range(4)}
    assert len(seeds - {4}) > 1
    assert min(seeds) >= 0


def test_a_size_beside_what_says_otherwise_is_refused(jobs: Jobs, tmp_path: Path) -> None:
    door = Door(jobs, tmp_path)
    for fields, says in (
        ({"size": "64x64", "height": 64}, "give size, or width and height, not both"),
        ({"seconds": 1, "num_frames": 9}, "give seconds or num_frames, not both"),
        ({"size": "1792x1024"}, "the nearest possible one of this ratio is 1526x872"),
        ({"size": "0x0"}, "between 32 and 1536"),
    ):
        with pytest.raises(InvalidRequest, match=says):
            door.ask(fields=fields)


def decoded(job: Job, *, last_frame: bool) -> tuple[RenderedVideo | Picture, ResultMetadata]:
    """What the decoder makes for a job, from some latents."""
    card = get_card(job.model)
    parameters = read_parameters(job.parameters)
    graph = graph_of(card, parameters, has_image=False)
    (node,) = (each for each in graph if each.stage is Stage.DECODE)
    request, _ = request_of(job, graph, node)
    assert isinstance(request, DecodeRequest)
    frames, rows, columns = (parameters.num_frames - 1) // 2 + 1, parameters.height // 16, parameters.width // 16
    generator = torch.Generator().manual_seed(0)
    latents = FinalLatents(torch.randn((1, 32, frames, rows, columns), generator=generator), generator.get_state())
    made, finished, _ = call(replica("decode", card).run(replace(request, last_frame=last_frame), latents))
    return made, finished.result_metadata


def test_the_decoder_delivers_the_asked_shape_and_passes_on_what_it_rendered(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_ray(monkeypatch, tmp_path)
    job = Door(jobs, tmp_path).ask(fields=SOURCE)
    assert job.output == Output(width=90, height=50, num_frames=8).model_dump()
    made, metadata = decoded(job, last_frame=False)
    assert isinstance(made, RenderedVideo)
    with av.open(BytesIO(made.mp4)) as container:
        assert container.duration == 1_000_000
        frames = [each.to_ndarray(format="rgb24") for each in container.decode(video=0)]
        assert '"size": "90x50"' in container.metadata["comment"]
    assert {frame.shape for frame in frames} == {(50, 90, 3)}
    assert (len(frames), metadata.frames) == (8, 8)
    last, _ = decoded(job, last_frame=True)
    assert isinstance(last, Picture)
    assert last.rgb.shape == (64, 96, 3), "another segment begins with it"
    whole, _ = decoded(replace(job, output={"crf": 0}), last_frame=False)
    assert isinstance(whole, RenderedVideo)
    with av.open(BytesIO(whole.mp4)) as container:
        rendered = [each.to_ndarray(format="rgb24") for each in container.decode(video=0)]
    assert len(rendered) == 9
    assert np.abs(rendered[8].astype(int) - last.rgb).mean() < 4
