"""`ray up`, `serve deploy`, a video and `ray down`, with the files of configs/clusters that need no cloud."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
import yaml

from cli.service import for_model
from deployments.configuration.names import ALWAYS
from deployments.configuration.serve_config import load_config
from jobs.database import sqlite_url
from pipelines.paths import ROOT
from tests.conftest import ServiceClient
from tests.deploy.machines import HOME, INSIDE, PORTS, Operator, make_operator, run_machine
from tests.harness.command import is_ready

SWITCH = "KINORAY_TEST_CLUSTERS"
DEADLINE_S = 600
TOKEN = "0123456789abcdef0123456789abcdef"
PUBLIC = "203.0.113.10"
"""Of a rented head, in the network of who rents it."""


def obstacle() -> str | None:
    """Why this cannot be run here."""
    if SWITCH not in os.environ:
        return f"starts clusters: `make test-clusters`, or set {SWITCH}=1"
    if os.geteuid() != 0:
        return "needs root, since its machines are namespaces"
    packages = {"sshd": "openssh-server", "ssh": "openssh-client", "rsync": "rsync", "ip": "iproute2"}
    missing = [package for command, package in packages.items() if shutil.which(command) is None]
    return f"apt install {' '.join(missing)}" if missing else None


pytestmark = pytest.mark.skipif(obstacle() is not None, reason=str(obstacle()))


@pytest.mark.parametrize("name", ["on-premise", "lambda", "runpod", "vast"])
def test_a_cluster_comes_up_renders_and_goes(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if os.environ[SWITCH] != "inside":
        # Once more, where `ray stop` reaches nobody else's Ray, and where nothing can be left.
        again = [*INSIDE, sys.executable, "-m", "pytest", "-p", "no:randomly", request.node.nodeid]
        done = subprocess.run(again, cwd=ROOT, env={**os.environ, SWITCH: "inside"}, check=False)
        assert done.returncode == 0, "see above"
        return
    cluster = yaml.safe_load((ROOT / f"configs/clusters/{name}.yaml").read_text())
    count = 1 + len(cluster["provider"]["worker_ips"])
    operator = make_operator(
        tmp_path / "operator", ["203.0.113.1", "192.168.1.1"], {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    )
    write_files(operator.folder, on_these_machines(cluster), simulated(count))
    with ExitStack() as running:
        machines = [running.enter_context(each) for each in named_by(cluster["provider"], tmp_path, operator)]
        operator.run("ray", "up", "-y", "--no-config-cache", "/mnt/cluster.yaml")
        assert at_work(machines[:1]), "the head has no Ray"

        running.enter_context(operator.running("ray", "dashboard", "/mnt/cluster.yaml"))
        running.enter_context(operator.running("ray", "attach", "/mnt/cluster.yaml", "-p", "8000"))
        serve = running.enter_context(Dashboard())
        until(serve.answers)
        operator.run("serve", "deploy", "/mnt/serve.yaml", "--address", str(serve.base_url))
        until(serve.has_every_replica)
        stages = serve.stages()
        assert len(stages) == count
        assert all(each == {"Denoiser": 3, "TextEncoder": 1, "VideoDecoder": 1} for each in stages.values()), stages

        service = ServiceClient("http://127.0.0.1:8000")
        until(lambda: is_ready(service.url))
        running.callback(service.http.close)
        video = service.finish(service.create(model="simulated")["id"])
        assert service.content(video["id"])

        operator.run("ray", "down", "-y", "/mnt/cluster.yaml")
        # The head is told to end, and the others notice after a while.
        until(lambda: not at_work(machines))


def named_by(
    provider: dict[str, Any], folder: Path, operator: Operator
) -> Iterator[AbstractContextManager[psutil.Process]]:
    """The machines of a file, with the addresses that it gives them; the head first."""
    given = [provider["head_ip"], *provider["worker_ips"]]
    names = {each: f"10.65.0.{n}" for n, each in enumerate(given, 10) if each.endswith(".internal")}
    shared = folder / "kinoray-data"  # what a bucket and PostgreSQL are elsewhere
    shared.mkdir()
    for n, each in enumerate(given):
        private = [names.get(each, each)] if each != "127.0.0.1" else []
        public = [PUBLIC] if n == 0 and "external_head_ip" in provider else []
        own = {"RUNPOD_POD_ID": each.partition(".")[0]}
        yield run_machine(folder / f"machine-{n}", operator, [*private, *public], names, own, shared=shared)


def write_files(folder: Path, cluster: dict[str, Any], service: dict[str, Any]) -> None:
    """What the operator has at hand."""
    (folder / "cluster.yaml").write_text(yaml.safe_dump(cluster))
    (folder / "serve.yaml").write_text(yaml.safe_dump(service))
    jobs = sqlite_url(Path(HOME) / "kinoray-data/jobs.sqlite3")
    (folder / "secrets").write_text(f"KINORAY_DATABASE_URL={jobs}\nRAY_AUTH_TOKEN={TOKEN}\n")
    # As a marketplace maps ssh.
    (folder / "home/.ssh/config").write_text(f"Host kinoray-*\n  HostName {PUBLIC}\n  Port {PORTS[1]}\n")


def on_these_machines(cluster: dict[str, Any]) -> dict[str, Any]:
    """The file, but for what a machine without packages and GPUs cannot do."""
    start = "ray start --num-cpus=2 --num-gpus=4 --object-store-memory=100000000"
    commands = {
        key: [each.replace("ray start", start) for each in cluster[key]]
        for key in ("head_start_ray_commands", "worker_start_ray_commands")
    }
    make, *others = cluster["setup_commands"]
    assert "make" in make
    return {
        **cluster,
        **commands,
        "auth": {**cluster["auth"], "ssh_user": "root", "ssh_private_key": f"{HOME}/.ssh/id_ed25519"},
        "file_mounts": {"~/kinoray": str(ROOT), "~/kinoray/cluster.env": "/mnt/secrets"},
        "initialization_commands": [],
        "setup_commands": [f"ln -sfn {ROOT / '.venv'} ~/kinoray/.venv", *others],
        "head_setup_commands": [". ~/kinoray/scripts/node-env; python -m cli migrate"],
    }


def simulated(machines: int) -> dict[str, Any]:
    """The service of configs/clusters/serve.yaml for so many machines, with stages that need no model and no bucket."""
    config = for_model(load_config(ROOT / "configs/clusters/serve.yaml"), "simulated", with_image=False)
    (application,) = config["applications"]
    del application["args"]["bucket"]
    for deployment in application["deployments"]:
        deployment["ray_actor_options"]["num_cpus"] = 0.01
        if deployment["name"] not in ALWAYS:
            deployment["num_replicas"] = machines * deployment["max_replicas_per_node"]
    return config


def until(reached: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not reached():
        assert time.monotonic() < deadline, f"not within {DEADLINE_S} s"
        time.sleep(0.5)


class Dashboard(httpx2.Client):
    """The head's REST API, where it was forwarded to."""

    def __init__(self) -> None:
        token = {"Authorization": f"Bearer {TOKEN}"}
        super().__init__(base_url="http://127.0.0.1:8265", headers=token, timeout=30, trust_env=False)

    def answers(self) -> bool:
        try:
            return bool(self.get("/api/version").status_code == 200)
        except httpx2.TransportError:
            return False

    def application(self) -> dict[str, Any]:
        found: dict[str, Any] = self.get("/api/serve/applications/").json()["applications"].get("kinoray", {})
        return found

    def has_every_replica(self) -> bool:
        return bool(self.application().get("status") == "RUNNING")

    def stages(self) -> dict[str, Counter[str]]:
        """How many replicas of which stage each machine runs."""
        found: dict[str, Counter[str]] = {}
        for name, deployment in self.application()["deployments"].items():
            for replica in deployment["replicas"] if name not in ALWAYS else ():
                found.setdefault(replica["node_ip"], Counter())[name.partition("-")[0]] += 1
        return found


def at_work(machines: list[psutil.Process]) -> list[str]:
    """Ray's processes there that hold a cluster together, and those that work in it."""
    found = [command_line(each) for first in machines for each in first.children(recursive=True)]
    return [line for line in found if line.startswith("ray::") or "/ray/core/" in line]


def command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""
