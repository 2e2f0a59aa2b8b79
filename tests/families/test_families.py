"""Families that are packages of their own join the catalogue, requests and serving without an edit to Kinoray.

kinoray-toy/ is such a package, as pip would install it: docs/adding-a-family.md shows its first module.
"""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import psutil
import pytest

from pipelines.paths import ROOT
from tests.conftest import ServiceClient
from tests.harness.command import Command, is_ready, own_config
from tests.harness.processes import title

PACKAGE = Path(__file__).parent / "kinoray-toy"
INSTALLED = {"PYTHONPATH": f"{ROOT}{os.pathsep}{PACKAGE}", "KINORAY_MODELS": str(PACKAGE / "models")}
CONFIG: dict[str, Any] = {
    "proxy_location": "HeadOnly",
    "http_options": {"host": "127.0.0.1", "port": 8000},
    "applications": [
        {
            "name": "kinoray",
            "route_prefix": "/",
            "import_path": "serve_app:build_app",
            "args": {"models": ["toy", "loop"]},
            "deployments": [
                {"name": name, "num_replicas": 1, "ray_actor_options": {"num_cpus": 0.05}}
                for name in (
                    "Api", "Conductor", "Publisher", "TextEncoder-toy", "Denoiser-toy", "VideoDecoder-toy",
                    "TextEncoder-loop", "ImageEncoder-loop", "Denoiser-loop", "VideoDecoder-loop",
                )
            ],
        }
    ],
}  # fmt: skip


def in_a_process_of_its_own(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **INSTALLED}, text=True, capture_output=True,
        check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Command, ServiceClient]]:
    folder = tmp_path_factory.mktemp("families")
    path, url = own_config(folder, CONFIG)
    serve = Command("serve", "--config", str(path), data=folder / "data", **INSTALLED)
    try:
        serve.wait_for(lambda: is_ready(url))
        client = ServiceClient(url)
        yield serve, client
        client.http.close()
    finally:
        serve.stop(signal.SIGTERM)


@pytest.fixture
def client(serve: tuple[Command, ServiceClient]) -> ServiceClient:
    return serve[1]


def in_process(model: str, **fields: object) -> bytes:
    """The same video by the same family, without a service."""
    code = f"""
import sys
from pipelines.catalogue import get_card
from pipelines.families import family_of
from pipelines.frames import to_frames
from pipelines.local import LocalPipeline
from pipelines.output import Output
from pipelines.requests import GenerationRequest, resolve
card = get_card({model!r})
parameters = resolve(GenerationRequest.model_validate({{"prompt": "dusk", **{fields!r}}}), card)
pipeline = LocalPipeline(card, gpu=False)
frames = to_frames([pipeline.generate("dusk", parameters)])
family = family_of(card)
made = family.render(frames, parameters, family.metadata(card.id, parameters), Output(), threads=1)
sys.stdout.buffer.write(made.mp4)
"""
    made = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **INSTALLED}, capture_output=True, check=True
    )
    return made.stdout


def frames(mp4: bytes) -> list[Any]:
    with av.open(io.BytesIO(mp4)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_it_joins_the_catalogue_and_the_requests() -> None:
    done = in_a_process_of_its_own("""
import sys
from deployments.http.create_fields import parse_create
from pipelines.catalogue import get_card
from pipelines.errors import InvalidRequest
from pipelines.requests import resolve

def refused(model, **fields):
    try:
        resolve(parse_create({"prompt": "dusk", **fields}).generation(), get_card(model))
    except InvalidRequest as error:
        return error.message

body = parse_create({"prompt": "dusk", "brightness": 0.5, "seed": 1})
assert resolve(body.generation(), get_card("toy")).brightness == 0.5
assert refused("toy", brightness=2) == "brightness must be at most 1"
assert refused("toy", guidance_scale=3).startswith("toy has no guidance_scale; its settings are brightness, fps")
assert refused("ltx-tiny", brightness=0.5).startswith("ltx-tiny has no brightness")
assert refused("loop", segments=5) == "num_frames must be a multiple of segments for loop"
assert "torch" not in sys.modules
""")
    assert done.returncode == 0, done.stderr


@pytest.mark.long
def test_it_is_served(client: ServiceClient) -> None:
    fields = {"seed": 7, "brightness": 0.8}
    video = client.finish(client.create(prompt="dusk", model="toy", **fields)["id"])
    assert video["parameters"]["brightness"] == 0.8
    assert (video["model_revision"], video["result_metadata"]["device"]) == ("toy-1", "cpu")
    assert set(video["stage_seconds"]) == {"text_encode", "denoise", "decode", "publish"}
    mp4 = client.content(video["id"])
    assert mp4 == in_process("toy", **fields)
    seen = frames(mp4)
    assert len(seen) == 24
    assert seen[0].mean() < 8 < seen[-1].mean(), "it fades in"
    models = {each["id"]: each for each in client.http.get("/v1/models").json()["data"]}
    assert models["toy"]["defaults"]["brightness"] == 1.0
    body = client.http.get("/openapi.json").json()["paths"]["/v1/videos"]["post"]["requestBody"]
    assert {"brightness", "segments"} <= body["content"]["application/json"]["schema"]["properties"].keys()


@pytest.mark.long
def test_a_loop_of_stages_is_served_with_its_sound(client: ServiceClient) -> None:
    fields = {"seed": 7, "segments": 3}
    video = client.finish(client.create(prompt="dusk", model="loop", **fields)["id"])
    assert set(video["stage_seconds"]) == {"text_encode", "image_encode", "denoise", "decode", "publish"}
    mp4 = client.content(video["id"])
    with av.open(io.BytesIO(mp4)) as container:
        (sound,) = container.streams.audio
        assert sound.rate == 16000
        samples = sum(frame.samples for frame in container.decode(audio=0))
    assert samples / 16000 == pytest.approx(video["parameters"]["num_frames"] / 8, abs=0.1)
    seen, expected = frames(mp4), frames(in_process("loop", **fields))
    assert len(seen) == 24
    assert all((one == other).all() for one, other in zip(seen, expected, strict=True)), "as in one process"
    assert seen[0].mean() < 8, "the first segment begins with black"
    assert abs(seen[8].astype(int) - seen[7]).max() < 16, "the second begins where the first ended"


@pytest.mark.long
def test_a_denoiser_killed_in_the_second_segment_costs_no_step_of_the_first(
    serve: tuple[Command, ServiceClient],
) -> None:
    command, client = serve
    fields = {"seed": 9, "segments": 2, "num_inference_steps": 20, "step_s": 0.2}
    undisturbed = client.finish(client.create(prompt="dusk", model="loop", **fields)["id"])
    job = client.create(prompt="dusk", model="loop", **fields)["id"]
    # In the second denoise more than half is done; some steps on, its first state may be committed or not.
    client.until(job, lambda video: video["stage"] == "denoise" and video["progress"] > 50 and (video["step"] or 0) > 5)
    (denoiser,) = [
        process
        for process in psutil.Process(command.process.pid).children(recursive=True)
        if "ServeReplica:kinoray:Denoiser-loop" in title(process)
    ]
    denoiser.kill()
    done = client.finish(job)
    assert done["attempts"] == 2
    assert client.content(job) == client.content(undisturbed["id"])
    both = undisturbed["stage_seconds"]["denoise"]
    assert done["stage_seconds"]["denoise"] > both / 2, "both segments count"
    events = command.output.read_text()
    assert f"{job} begins" not in events, "no checkpoint was thrown away"
    finished = [line for line in events.splitlines() if job in line and "stage.finished" in line]
    assert sum("denoise.1" in line for line in finished) == 1, "the first segment was denoised once"
