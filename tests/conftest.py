"""What is started once for every test: a service (real Ray and Serve, the shipped models, own ports and state), and
a PostgreSQL."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest

from cli.service import default_config, free_port, run_service
from deployments.configuration.serve_config import load_config
from tests.harness.databases import PostgresMissing, run_postgres

PROMPT = "a red circle moves left on a black background"
DEADLINE_S = 300
"""How long anything may take: far longer than it does, since neighbors may be at work on the same cores."""
ENDLESS = {"num_inference_steps": 1000, "width": 384, "height": 384}
"""A request for ltx-tiny that takes longer than any deadline, though no step of it takes many seconds."""
FOLDERS = ("unit", "deploy", "storage", "cli", "chaos", "scale", "families", "front", "contract", "serve")
"""In this order: what one folder starts does not run beside the next, but for the service that the last two share."""
WEBHOOK_SECRET = "whsec_" + base64.b64encode(b"a secret of at least 24 bytes").decode()


class ServiceClient:
    """Plain HTTP, for what the openai client cannot express."""

    def __init__(self, url: str, config: dict[str, Any] | None = None) -> None:
        self.url = url
        self.config = config or {}  # what the service was deployed from
        self.http = httpx2.Client(base_url=url, timeout=DEADLINE_S, trust_env=False)

    def create(self, **fields: Any) -> dict[str, Any]:
        response = self.http.post("/v1/videos", json={"prompt": PROMPT, **fields})
        assert response.status_code == 200, response.text
        video: dict[str, Any] = response.json()
        return video

    def get(self, video_id: str) -> dict[str, Any]:
        video: dict[str, Any] = self.http.get(f"/v1/videos/{video_id}").json()
        return video

    def until(self, video_id: str, reached: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
        """Poll until a condition holds; returns everything that was seen."""
        seen = []
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            seen.append(self.get(video_id))
            if reached(seen[-1]):
                return seen
            time.sleep(0.05)
        raise AssertionError(f"not within {DEADLINE_S} s; the last answer was {seen[-1]}")

    def finish(self, video_id: str) -> dict[str, Any]:
        video = self.until(video_id, lambda v: v["status"] in ("completed", "failed"))[-1]
        assert video["status"] == "completed", video["error"]
        return video

    def content(self, video_id: str, variant: str = "video") -> bytes:
        response = self.http.get(f"/v1/videos/{video_id}/content", params={"variant": variant})
        assert response.status_code == 200, response.text
        return response.content


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the folders apart; inside each its tests stay as they were shuffled."""
    here = Path(__file__).parent
    items.sort(key=lambda item: FOLDERS.index(item.path.relative_to(here).parts[0]))


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """A running PostgreSQL; the URL of its administrator's database."""
    try:
        server = run_postgres(durable=False)
    except PostgresMissing as missing:
        pytest.skip(str(missing))
    with server as url:
        yield url


@pytest.fixture(scope="session")
def service_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The running service's KINORAY_DATA."""
    return tmp_path_factory.mktemp("kinoray-data")


@pytest.fixture(scope="session")
def service(service_data: Path) -> Iterator[ServiceClient]:
    config = load_config(default_config())
    config["http_options"]["port"] = free_port()
    # A busy machine may let a process stand for seconds. A lease lost to that would look like a fault of the service.
    config["applications"][0]["args"].update(
        lease_s=10, checkpoint_every_s=0.5, sweep_every_s=0.5, outbound_allow=["127.0.0.1"]
    )
    for deployment in config["applications"][0]["deployments"]:
        deployment["ray_actor_options"]["num_cpus"] = 0.1  # leaves room for one more denoiser
    with ExitStack() as running:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("KINORAY_WEBHOOK_SECRET", WEBHOOK_SECRET)  # its processes inherit it; other tests do not
            url = running.enter_context(run_service(config, data=service_data, private=True, graceful=False))
        client = ServiceClient(url, config)
        yield client
        client.http.close()
