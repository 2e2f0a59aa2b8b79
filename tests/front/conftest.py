"""What a client meets first: the API of a service with keys. It stops when the tests of this folder are done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
import yaml

from cli.service import default_config, for_model, free_port
from deployments.configuration.api_keys import fingerprint, generate
from deployments.configuration.serve_config import BALANCE, load_config
from tests.conftest import DEADLINE_S
from tests.harness.command import Command, is_ready
from tests.harness.processes import kill_tree

PREFIX, PAGE = "/kinoray", "https://studio.example"
"""The path under which the service stands, and the origin whose pages may call it."""


class Front:
    """The API of a service with keys, as a process of its own. Its stages wait for hardware that is not here."""

    def __init__(self, url: str, keys: dict[str, str], command: Command) -> None:
        self.url = url
        self.command = command
        self.data = command.output.with_suffix("")
        self.keys = keys
        self.http = httpx2.Client(base_url=url, timeout=DEADLINE_S, trust_env=False)

    def ask(self, key: str, method: str, path: str, **request: Any) -> httpx2.Response:
        headers = {"authorization": f"Bearer {self.keys[key]}", **request.pop("headers", {})}
        return self.http.request(method, path, headers=headers, **request)


@pytest.fixture(scope="package")
def start_front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Command]]:
    """Starts `kinoray serve` with nothing but the API, the conductor and the publisher."""
    commands: list[Command] = []

    def run(http_options: dict[str, Any], settings: dict[str, Any]) -> Command:
        folder = tmp_path_factory.mktemp("front")
        config = for_model(load_config(default_config()), "ltx-tiny", with_image=False)
        (application,) = config["applications"]
        application["args"].update(settings)
        application["route_prefix"] = PREFIX
        application["autoscaling_policy"] = {"policy_function": BALANCE}
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
            kill_tree(command.process.pid)  # its jobs wait for hardware that never comes; a drain would too
            command.process.wait()


@pytest.fixture(scope="package")
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
    settings = {"api_keys": entries, "max_queued": 20, "sync_timeout_s": 0.5, "cors_origins": [PAGE]}
    command = start_front({"port": port}, settings)
    front = Front(f"http://127.0.0.1:{port}{PREFIX}", keys, command)
    command.wait_for(lambda: is_ready(front.url))
    yield front
    front.http.close()
