"""Every file for `ray up` by Ray's own validator, and that the service of configs/cluster.yaml fits a cloud's nodes."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from ray._private.utils import check_version_info, compute_version_info
from ray.autoscaler._private.util import prepare_config, validate_config
from sqlalchemy import make_url, text

from cli.service import environment
from deployments.configuration.serve_config import load_config
from jobs.database import Database
from pipelines.paths import ROOT
from tests.harness.configs import clusters, most_replicas

CLUSTERS = clusters()
CLOUDS = {name: each for name, each in CLUSTERS.items() if each["provider"]["type"] != "local"}


@pytest.fixture(params=[*CLUSTERS.values()], ids=[*CLUSTERS])
def cluster(request: pytest.FixtureRequest) -> dict[str, Any]:
    config: dict[str, Any] = request.param
    return config


@pytest.fixture(params=[*CLOUDS.values()], ids=[*CLOUDS])
def cloud(request: pytest.FixtureRequest) -> dict[str, Any]:
    """One whose nodes are of several types, and come and go."""
    config: dict[str, Any] = request.param
    return config


@pytest.fixture(scope="module")
def deployments() -> list[dict[str, Any]]:
    (application,) = load_config(ROOT / "configs/cluster.yaml")["applications"]
    given: list[dict[str, Any]] = application["deployments"]
    return given


def test_ray_accepts_the_cluster_and_would_see_a_typo(cluster: dict[str, Any]) -> None:
    validate_config(prepare_config(cluster))
    with pytest.raises(jsonschema.ValidationError, match="idle_timeout"):
        validate_config(prepare_config({**cluster, "idle_timeout": 5}))


def test_every_deployment_has_nodes_that_fit_it(cloud: dict[str, Any], deployments: list[dict[str, Any]]) -> None:
    nodes = cloud["available_node_types"].values()
    for deployment in deployments:
        options = deployment["ray_actor_options"]
        matching = [each for each in nodes if options["label_selector"].items() <= each["labels"].items()]
        assert matching, f"no node for {deployment['name']}"
        for each in matching:
            assert options["num_cpus"] <= each["resources"]["CPU"]
            assert options.get("num_gpus", 0) <= each["resources"]["GPU"]


def test_all_replicas_together_fit_the_largest_cluster(
    cloud: dict[str, Any], deployments: list[dict[str, Any]]
) -> None:
    there: dict[tuple[str, str], float] = {}
    for name, node in cloud["available_node_types"].items():
        for kind, count in node["resources"].items():
            nodes = 1 if name == cloud["head_node_type"] else node["max_workers"]
            key = (node["labels"]["kinoray/stages"], kind)
            there[key] = there.get(key, 0) + count * nodes
    for stages in {stages for stages, _ in there}:
        mine = [each for each in deployments if each["ray_actor_options"]["label_selector"]["kinoray/stages"] == stages]
        for kind, option in {"CPU": "num_cpus", "GPU": "num_gpus"}.items():
            asked = sum(most_replicas(each) * each["ray_actor_options"].get(option, 0) for each in mine)
            assert asked <= there[stages, kind], (stages, kind)


def test_no_gpu_work_on_the_head_and_spot_would_come_first(cloud: dict[str, Any]) -> None:
    types = cloud["available_node_types"]
    assert types[cloud["head_node_type"]]["resources"]["GPU"] == 0
    spot, other = types["denoise-spot"], types["denoise"]
    assert (is_spot(spot["node_config"]), is_spot(other["node_config"])) == (True, False)
    assert spot["priority"] > other.get("priority", 0)


def is_spot(node_config: dict[str, Any]) -> bool:
    aws, gcp = node_config.get("InstanceMarketOptions", {}), node_config.get("scheduling", {})
    return aws.get("MarketType") == "spot" or gcp.get("provisioningModel") == "SPOT"


def test_secrets_are_not_in_git_and_reach_every_node(cluster: dict[str, Any]) -> None:
    ignored = subprocess.run(["git", "check-ignore", "--quiet", "--no-index", "cluster.env"], cwd=ROOT, check=False)
    assert ignored.returncode == 0
    assert not any(pattern.startswith("cluster") for pattern in cluster["rsync_exclude"])
    commands = cluster["head_start_ray_commands"] + cluster["worker_start_ray_commands"]
    assert all(command.startswith(". ~/kinoray/scripts/node-env; ") for command in commands)
    # What git does not take, nodes do not get either.
    local = {line for line in (ROOT / ".gitignore").read_text().splitlines() if not line.startswith("#")}
    assert local - {"cluster.env"} <= {*cluster["rsync_exclude"]}


@pytest.mark.parametrize("head", [None, "10.0.0.7"])
def test_a_node_knows_its_job_store_and_what_ray_needs(
    tmp_path: Path, head: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home/kinoray").mkdir(parents=True)
    (tmp_path / "home/kinoray/cluster.env").write_text("KINORAY_DATABASE_PASSWORD=secret\nRAY_AUTH_TOKEN=token\n")
    given = {"HOME": str(tmp_path / "home"), "PATH": "/usr/bin:/bin", **({"RAY_HEAD_IP": head} if head else {})}
    script = f". {shlex.quote(str(ROOT / 'scripts/node-env'))}; env"
    shown = subprocess.run(["sh", "-euc", script], env=given, check=True, capture_output=True, text=True).stdout
    found = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
    assert found["KINORAY_DATABASE_URL"] == f"postgresql://kinoray:secret@{head or 'localhost'}/kinoray"
    assert (found["RAY_AUTH_MODE"], found["RAY_AUTH_TOKEN"]) == ("token", "token")
    wanted = environment(tmp_path).keys() - {"RAY_AUTH_TOKEN_PATH"}  # its nodes share the token itself
    assert wanted <= found.keys(), "what one machine needs, a cluster needs"
    # A node whose Python differs from the head's in the last number is let in.
    ray, python = compute_version_info()
    other = {"ray_version": ray, "python_version": f"{python.rpartition('.')[0]}.99"}
    with pytest.raises(RuntimeError, match="Version mismatch"):
        check_version_info(other, "here")
    variable = "RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL"
    monkeypatch.setenv(variable, found[variable])
    check_version_info(other, "here")


@pytest.mark.parametrize("script", ["node-env", "head-services", "lock"])
def test_scripts_parse(script: str) -> None:
    path = ROOT / "scripts" / script
    shell = "bash" if path.read_text().startswith("#!/usr/bin/env bash") else "sh"
    subprocess.run([shell, "-n", str(path)], check=True)


def test_the_head_makes_the_job_store_once_and_a_new_password_counts(postgres: str) -> None:
    if shutil.which("psql") is None:
        pytest.skip("no psql on this machine: apt install postgresql-client")
    statements = (ROOT / "scripts/head-services.sql").read_text()
    for password in ("first", 'it\'s "new"'):
        subprocess.run(
            ["psql", "--no-psqlrc", "--set", "ON_ERROR_STOP=1", "--set", f"password={password}", postgres],
            input=statements, text=True, check=True, capture_output=True,
        )  # fmt: skip
    url = make_url(postgres).set(username="kinoray", password=password, database="kinoray")
    with Database(url.render_as_string(hide_password=False)) as database:
        assert database.migrate()[0] is None
        with database.read() as connection:
            kept = connection.execute(text("SELECT rolpassword FROM pg_authid WHERE rolname = 'kinoray'")).scalar_one()
    assert kept.startswith("SCRAM-SHA-256$")
