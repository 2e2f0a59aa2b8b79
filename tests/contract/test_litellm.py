"""LiteLLM's proxy before the service, as its documentation sets one up for a `hosted_vllm` model.

The proxy is installed into an environment of its own, since it pins what the service pins otherwise.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import httpx2
import openai
import pytest
import yaml

from cli.service import free_port
from pipelines.video import read_frames
from tests.conftest import DEADLINE_S, ServiceClient
from tests.harness.processes import until
from training.detect import detect

pytestmark = pytest.mark.long

REQUIREMENT = "litellm[proxy]==1.108.7"
KEY = "sk-of-the-proxy"


@pytest.fixture(scope="module")
def proxy(service: ServiceClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running proxy."""
    folder, port = tmp_path_factory.mktemp("litellm"), free_port()
    params = {"model": "hosted_vllm/ltx-tiny", "api_base": f"{service.url}/v1", "api_key": "anything"}
    config = {
        "model_list": [{"model_name": "ltx-tiny", "litellm_params": params}],
        "general_settings": {"master_key": KEY},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    command = [str(_installed() / "bin" / "litellm"), "--config", "config.yaml", "--host", "127.0.0.1"]
    log = folder / "log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [*command, "--port", str(port)], stdout=out, stderr=out, cwd=folder, env={"HOME": str(folder)}
        )
        try:
            until(lambda: _answers(port, process, log), "a LiteLLM proxy that answers", DEADLINE_S)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(30)


def _installed() -> Path:
    """The environment with the proxy, which stays for the next time."""
    home = Path(sys.prefix) / "litellm"
    done = home / REQUIREMENT
    if not done.exists():
        venv.create(home, clear=True, with_pip=True)
        subprocess.run([home / "bin" / "pip", "install", "-q", REQUIREMENT], check=True)
        done.touch()
    return home


def _answers(port: int, process: subprocess.Popen[bytes], log: Path) -> bool:
    assert process.poll() is None, log.read_text()[-4000:]
    try:
        return httpx2.get(f"http://127.0.0.1:{port}/health/liveliness").status_code == 200
    except httpx2.TransportError:
        return False


@pytest.fixture
def client(proxy: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{proxy}/v1", api_key=KEY, max_retries=0) as client:
        yield client


def test_a_video_through_the_proxy(client: openai.OpenAI, tmp_path: Path) -> None:
    created = client.videos.create(
        model="ltx-tiny",
        prompt="a blue square moves up on a white background",
        size="64x64",  # type: ignore[arg-type]  # the client's type names OpenAI's own sizes; any string passes
        seconds="1",  # type: ignore[arg-type]
        extra_body={"seed": 4, "num_inference_steps": 60},
    )
    assert created.status == "queued"
    until(lambda: client.videos.retrieve(created.id).status not in ("queued", "in_progress"), "a video", DEADLINE_S)
    video = client.videos.retrieve(created.id)
    assert (video.status, video.size, video.progress) == ("completed", "64x64", 100)
    path = tmp_path / "video.mp4"
    path.write_bytes(client.videos.download_content(created.id).read())
    seen = detect(read_frames(path))
    assert (seen.color, seen.motion, seen.background) == ("blue", "up", "white")


def test_a_picture_through_the_proxy(client: openai.OpenAI, tmp_path: Path) -> None:
    picture = Path(__file__).parent / "red-circle-white.png"
    created = client.videos.create(
        model="ltx-tiny",
        prompt="a red circle moves right on a white background",
        input_reference=picture,
        extra_body={"seed": 3},
    )
    until(lambda: client.videos.retrieve(created.id).status == "completed", "a video", DEADLINE_S)
    path = tmp_path / "video.mp4"
    path.write_bytes(client.videos.download_content(created.id).read())
    seen = detect(read_frames(path))
    assert (seen.color, seen.background) == ("red", "white")


def test_a_refusal_through_the_proxy_says_what_to_do(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="prompt must not be empty; describe the video"):
        client.videos.create(model="ltx-tiny", prompt="")
