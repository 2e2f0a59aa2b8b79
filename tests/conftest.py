"""What is started once for every test: a service (real Ray and Serve, the shipped models, own ports and state), and
a PostgreSQL."""

from __future__ import annotations

import base64
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from benchmarks.databases import PostgresMissing, run_postgres
from deployments.config import load_config
from deployments.keys import fingerprint, generate
from deployments.service import default_config, for_model, free_port, run_service
from tests.command import Command, is_ready

PROMPT = "a red circle moves left on a black background"
DEADLINE_S = 120
WEBHOOK_SECRET = "whsec_" + base64.b64encode(b"a secret of at least 24 bytes").decode()


class ServiceClient:
    """Plain HTTP, for what the openai client cannot express."""

    def __init__(self, url: str, config: dict[str, Any] | None = None) -> None:
        self.url = url
        self.config = config or {}  # what the service was deployed from
        self.http = httpx2.Client(base_url=url, timeout=30, trust_env=False)

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

    def content(self, video_id: str) -> bytes:
        response = self.http.get(f"/v1/videos/{video_id}/content")
        assert response.status_code == 200, response.text
        return response.content


class Front:
    """The API of a service with keys, as a process of its own. Its legs wait for hardware that this machine has not."""

    def __init__(self, url: str, keys: dict[str, str]) -> None:
        self.url = url
        self.keys = keys
        self.http = httpx2.Client(base_url=url, timeout=30, trust_env=False)

    def ask(self, key: str, method: str, path: str, **request: Any) -> httpx2.Response:
        headers = {"authorization": f"Bearer {self.keys[key]}", **request.pop("headers", {})}
        return self.http.request(method, path, headers=headers, **request)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """A running PostgreSQL; the URL of its administrator's database."""
    try:
        server = run_postgres()
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
    config["applications"][0]["args"].update(
        lease_s=3, checkpoint_every_s=0.5, sweep_every_s=0.5, outbound_allow=["127.0.0.1"]
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


@pytest.fixture(scope="session")
def start_front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Command]]:
    """Starts `kinoray serve` with nothing but the API, the conductor and the publisher."""
    commands: list[Command] = []

    def run(http_options: dict[str, Any], settings: dict[str, Any]) -> Command:
        folder = tmp_path_factory.mktemp("front")
        config = for_model(load_config(default_config()), "ltx-tiny", with_image=False)
        (application,) = config["applications"]
        application["args"].update(settings)
        for deployment in application["deployments"]:
            if deployment["name"].endswith("ltx-tiny"):
                deployment.pop("num_replicas", None)
                deployment["autoscaling_config"] = {"min_replicas": 0, "initial_replicas": 0, "max_replicas": 1}
                deployment["ray_actor_options"] = {"num_cpus": 0.1, "resources": {"none_of_this_here": 1}}
        config["http_options"].update(http_options)
        path = folder / "serve.yaml"
        path.write_text(yaml.safe_dump(config))
        commands.append(Command("serve", "--config", str(path), data=folder / "data", KINORAY_WEBHOOK_SECRET=""))
        return commands[-1]

    yield run
    for command in commands:
        if command.process.poll() is None:
            command.stop(signal.SIGTERM)


@pytest.fixture(scope="session")
def front(start_front: Callable[..., Command]) -> Iterator[Front]:
    keys = {name: generate() for name in ("alice", "bob", "root", "reader", "limited")}
    scopes = {"root": ["admin"], "reader": ["read"]}
    limits = {"limited": {"live_jobs": 2}}
    entries = [
        {
            "name": name, "sha256": fingerprint(key), "scopes": scopes.get(name, ["submit", "read"]),
            "limits": limits.get(name, {}),
        }
        for name, key in keys.items()
    ]  # fmt: skip
    port = free_port()
    command = start_front({"port": port}, {"api_keys": entries, "max_queued": 20, "sync_timeout_s": 0.5})
    front = Front(f"http://127.0.0.1:{port}", keys)
    command.wait_for(lambda: is_ready(front.url))
    yield front
    front.http.close()
