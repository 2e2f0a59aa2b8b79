"""Other places than AWS for `ray up`: what their files have in common, and the service on machines that are alike."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ray.autoscaler._private.local.config import LOCAL_CLUSTER_NODE_TYPE
from ray.autoscaler._private.util import prepare_config
from ray.serve._private.build_app import build_app as build_graph

from deployments.configuration.serve_config import load_config
from pipelines.paths import ROOT
from serve_app import build_app
from tests.harness.configs import SERVE, clusters

CLUSTERS = clusters()
LOCAL = {name: each for name, each in CLUSTERS.items() if each["provider"]["type"] == "local"}
OTHERS = sorted(CLUSTERS.keys() - {"aws"})
GPUS = 4
"""Of each machine in serve.yaml."""


@pytest.fixture(scope="module")
def service() -> dict[str, Any]:
    (application,) = load_config(SERVE)["applications"]
    found: dict[str, Any] = application
    return found


def test_the_service_names_every_deployment(service: dict[str, Any]) -> None:
    graph = build_graph(build_app(service["args"]), name="kinoray")
    assert {each["name"] for each in service["deployments"]} == {each.name for each in graph.deployments}


def test_the_service_fills_the_gpus_of_the_machines_on_premise(service: dict[str, Any]) -> None:
    machines = len(LOCAL["on-premise"]["provider"]["worker_ips"]) + 1
    stages = [each for each in service["deployments"] if "num_gpus" in each["ray_actor_options"]]
    for stage in stages:
        assert stage["num_replicas"] == machines * stage["max_replicas_per_node"], stage["name"]
    asked = sum(stage["max_replicas_per_node"] * stage["ray_actor_options"]["num_gpus"] for stage in stages)
    assert asked == pytest.approx(GPUS)
    shares = [stage["ray_actor_options"]["num_gpus"] for stage in stages if stage["ray_actor_options"]["num_gpus"] < 1]
    assert sum(shares) == pytest.approx(1), "what shares a GPU has to fit onto one"


@pytest.mark.parametrize("name", LOCAL)
def test_ray_starts_every_machine_that_a_file_names(name: str) -> None:
    prepared = prepare_config(LOCAL[name])
    workers = len(LOCAL[name]["provider"]["worker_ips"])
    assert prepared["available_node_types"][LOCAL_CLUSTER_NODE_TYPE]["min_workers"] == workers
    assert "export RAY_enable_autoscaler_v2=0; " in prepared["head_start_ray_commands"][-1]


@pytest.mark.parametrize("name", [name for name in LOCAL if name != "on-premise"])
def test_a_marketplace_differs_from_on_premise_in_what_its_page_says(name: str) -> None:
    own, other = LOCAL[name], LOCAL["on-premise"]
    differing = {key for key in own.keys() | other.keys() if own.get(key) != other.get(key)}
    containers = {"auth", "initialization_commands"} if name != "lambda" else set()
    address = {"head_start_ray_commands"} if name == "runpod" else set()
    assert differing == {"provider", *containers, *address}
    assert own["provider"].keys() - other["provider"].keys() == {"external_head_ip"}


def test_the_clouds_have_the_same_nodes_for_one_service() -> None:
    aws, gcp = CLUSTERS["aws"], CLUSTERS["gcp"]
    own = {"resources", "node_config"}
    for types in zip(aws["available_node_types"].items(), gcp["available_node_types"].items(), strict=True):
        one, other = ((name, {key: node[key] for key in node.keys() - own}) for name, node in types)
        assert one == other
    differing = {key for key in aws.keys() | gcp.keys() if aws.get(key) != gcp.get(key)}
    assert differing == {"provider", "available_node_types", "head_setup_commands", "worker_setup_commands"}


def test_ray_down_finds_ray_on_a_machine(tmp_path: Path) -> None:
    _, remember = LOCAL["on-premise"]["setup_commands"]
    for _ in range(2):
        subprocess.run(["bash", "-euc", remember], env={"HOME": str(tmp_path)}, check=True)
    written = (tmp_path / ".bashrc").read_text()
    assert len(written.splitlines()) == 1
    ray = tmp_path / "kinoray/.venv/bin/ray"
    ray.parent.mkdir(parents=True)
    ray.touch(mode=0o755)
    shown = subprocess.run(
        ["bash", "-c", "source ~/.bashrc; command -v ray"],
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert shown.stdout.strip() == str(ray)


@pytest.mark.parametrize("name", OTHERS)
def test_a_page_says_what_to_start_and_what_to_deploy(name: str) -> None:
    page = ROOT / f"docs/clusters/{name}.md"
    text = page.read_text()
    assert f"ray up configs/clusters/{name}.yaml" in text
    (config,) = set(re.findall(r"serve deploy (\S+\.yaml)", text))
    load_config(ROOT / config)
    assert (config == "configs/cluster.yaml") == ("available_node_types" in CLUSTERS[name])
    for target in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert (page.parent / target).exists(), target
