"""The official openai package drives the service as it is."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import openai
import pytest
from openai.resources.videos import Videos
from PIL import Image

from pipelines.video import read_frames
from tests.conftest import DEADLINE_S, PROMPT, ServiceClient
from tests.contract.conftest import Limited
from training.detect import detect


@pytest.fixture
def client(service: ServiceClient) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="anything", max_retries=0) as client:
        yield client


def test_create_poll_and_download(client: openai.OpenAI, tmp_path: Path) -> None:
    created = client.videos.create(
        model="ltx-tiny",
        prompt="a blue square moves up on a white background",
        extra_body={"seed": 4, "num_inference_steps": 60},
    )
    assert (created.status, created.progress) == ("queued", 0)
    progress = [created.progress]
    deadline = time.monotonic() + DEADLINE_S
    while (video := client.videos.retrieve(created.id)).status in ("queued", "in_progress"):
        progress.append(video.progress)
        assert time.monotonic() < deadline, video
    assert video.status == "completed"
    assert video.progress == 100
    assert progress == sorted(progress)
    assert len({value for value in progress if 0 < value < 100}) >= 3

    path = tmp_path / "video.mp4"
    client.videos.download_content(created.id).write_to_file(path)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height, stream.average_rate) == (64, 64, 8)
    frames = list(read_frames(path))
    assert len(frames) == 9
    seen = detect(frames)
    assert (seen.color, seen.motion, seen.background) == ("blue", "up", "white")


def test_create_and_poll_with_openai_sizes_and_seconds(client: openai.OpenAI) -> None:
    video = client.videos.create_and_poll(
        prompt="a red circle moves left on a black background",
        size="64x96",  # type: ignore[arg-type]  # the client's type names OpenAI's own sizes; any string passes
        seconds="2",  # type: ignore[arg-type]
    )
    assert (video.status, video.size, video.model) == ("completed", "64x96", "ltx-tiny")
    assert video.seconds == "2"
    assert (video.model_extra or {})["rendered"][
        "num_frames"
    ] == 17  # the least that the model can make of it, at 8 fps


def test_lists_in_pages_and_deletes(client: openai.OpenAI) -> None:
    made = [client.videos.create_and_poll(prompt=f"a {color} circle stays still on a black background").id
            for color in ("red", "green", "blue")]  # fmt: skip
    listed = [video.id for video in client.videos.list(limit=2)]  # the client turns the pages
    assert [video_id for video_id in listed if video_id in made] == made[::-1]
    deleted = client.videos.delete(made[0])
    assert (deleted.id, deleted.deleted, deleted.object) == (made[0], True, "video.deleted")
    with pytest.raises(openai.NotFoundError) as gone:
        client.videos.retrieve(made[0])
    assert gone.value.code == "not_found"
    assert made[0] not in [video.id for video in client.videos.list(limit=100)]


def test_an_image_becomes_the_first_frame(client: openai.OpenAI, tmp_path: Path) -> None:
    picture = Path(__file__).parent / "red-circle-white.png"
    video = client.videos.create_and_poll(
        prompt="a red circle moves right on a white background", input_reference=picture, extra_body={"seed": 3}
    )
    assert video.status == "completed"
    path = tmp_path / "video.mp4"
    client.videos.download_content(video.id).write_to_file(path)
    seen = detect(read_frames(path))
    assert (seen.color, seen.background) == ("red", "white")


def test_an_image_alone_becomes_a_video(client: openai.OpenAI, tmp_path: Path) -> None:
    picture = Path(__file__).parent / "red-circle-white.png"
    video = client.videos.create_and_poll(
        model="svd-tiny", prompt="not used", input_reference=picture, extra_body={"seed": 3, "motion_bucket_id": 200}
    )
    assert (video.status, video.model) == ("completed", "svd-tiny")
    path = tmp_path / "video.mp4"
    client.videos.download_content(video.id).write_to_file(path)
    seen = detect(read_frames(path))
    assert (seen.color, seen.background, seen.motion) == ("red", "white", "right")


def test_a_picture_is_the_same_however_it_is_sent(client: openai.OpenAI) -> None:
    """The client refuses to send an object as `input_reference`, and sends one that is in `extra_body`."""
    picture = Path(__file__).parent / "red-circle-white.png"
    url = "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode()
    extra = {"seed": 3, "num_inference_steps": 2}
    sent: list[dict[str, Any]] = [
        {"input_reference": picture, "extra_body": extra},
        {"input_reference": [picture], "extra_body": extra},
        {"extra_body": {**extra, "input_reference": {"image_url": url}}},
        {"extra_body": {**extra, "input_reference": [{"image_url": url}]}},
    ]
    made = [client.videos.create_and_poll(prompt=PROMPT, **each) for each in sent]
    assert len({client.videos.download_content(video.id).read() for video in made}) == 1
    plain = client.videos.create_and_poll(prompt=PROMPT, extra_body=extra)
    remix = client.videos.remix(plain.id, prompt=PROMPT, extra_body={"input_reference": {"image_url": url}})
    assert client.videos.poll(remix.id).status == "completed"
    contents = [client.videos.download_content(video.id).read() for video in (made[0], plain, remix)]
    assert contents[2] == contents[0] != contents[1]
    with pytest.raises(openai.BadRequestError, match="the models take 1, and these are 2") as refused:
        client.videos.create(prompt=PROMPT, input_reference=[picture, picture])  # type: ignore[arg-type]
    assert refused.value.param == "input_reference"


def test_keys_and_their_limits(limited: Limited) -> None:
    def create(key: str) -> str:
        with openai.OpenAI(base_url=f"{limited.url}/v1", api_key=key, max_retries=0) as client:
            return client.videos.create(prompt=PROMPT).status

    with pytest.raises(openai.AuthenticationError) as unknown:
        create("unknown")
    assert (unknown.value.status_code, unknown.value.code) == (401, "invalid_api_key")
    assert create(limited.keys["python"]) == "queued"
    with pytest.raises(openai.RateLimitError) as reached:
        create(limited.keys["python"])
    assert (reached.value.status_code, reached.value.code) == (429, "requests_per_minute_exceeded")
    assert 0 < int(reached.value.response.headers["retry-after-ms"]) <= 60_000


def test_a_refused_request_is_a_typed_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.videos.create(prompt="x", model="sora-2")
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")
    assert "ltx-tiny" in refused.value.message


def test_posters_spritesheets_and_remixes(client: openai.OpenAI, tmp_path: Path) -> None:
    source = client.videos.create_and_poll(prompt="a red circle moves left on a black background")
    for variant in ("thumbnail", "spritesheet"):
        path = tmp_path / f"{variant}.webp"
        client.videos.download_content(source.id, variant=variant).write_to_file(path)
        with Image.open(path) as image:
            assert image.format == "WEBP"
    remix = client.videos.remix(source.id, prompt="a blue square moves right on a white background")
    assert remix.remixed_from_video_id == source.id
    done = client.videos.poll(remix.id)
    assert (done.status, done.size, done.seconds) == ("completed", source.size, source.seconds)
    path = tmp_path / "remix.mp4"
    client.videos.download_content(done.id).write_to_file(path)
    seen = detect(read_frames(path))
    assert (seen.color, seen.background) == ("blue", "white")


def test_the_client_sends_nothing_again_that_will_never_be_better(service: ServiceClient) -> None:
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="anything") as client:  # two retries, as by default
        raw = client.videos.with_raw_response
        with pytest.raises(openai.InternalServerError) as refused:
            raw.edit(prompt="x", video=b"mp4")
        assert refused.value.response.headers["x-should-retry"] == "false"
        assert refused.value.response.request.headers["x-stainless-retry-count"] == "0"


ANSWERED: dict[str, Callable[[Videos, str], object]] = {
    "create": lambda videos, _: videos.create(prompt=PROMPT),
    "create_and_poll": lambda videos, _: videos.create_and_poll(prompt=PROMPT),
    "retrieve": lambda videos, done: videos.retrieve(done),
    "poll": lambda videos, done: videos.poll(done),
    "list": lambda videos, _: videos.list(),
    "download_content": lambda videos, done: videos.download_content(done),
    "remix": lambda videos, done: videos.remix(done, prompt=PROMPT),
    "delete": lambda videos, done: videos.delete(done),
}
NOT_OFFERED: dict[str, Callable[[Videos, str], object]] = {
    "edit": lambda videos, _: videos.edit(prompt="x", video=b"mp4"),
    "extend": lambda videos, _: videos.extend(prompt="x", seconds="4", video=b"mp4"),
    "create_character": lambda videos, _: videos.create_character(name="x", video=b"mp4"),
    "get_character": lambda videos, _: videos.get_character("char_1"),
}


def test_every_method_of_the_client_has_an_answer(client: openai.OpenAI) -> None:
    methods = {name for name in vars(Videos) if not name.startswith(("_", "with_"))}
    assert methods == {*ANSWERED, *NOT_OFFERED}
    done = client.videos.create_and_poll(prompt=PROMPT).id
    for call in ANSWERED.values():
        call(client.videos, done)
    for name, call in NOT_OFFERED.items():
        with pytest.raises(openai.InternalServerError) as refused:
            call(client.videos, done)
        assert (refused.value.status_code, refused.value.code) == (501, "not_implemented"), name
