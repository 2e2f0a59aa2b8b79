"""Config files that are no text, no YAML or hold what no machine has: each gets a sentence, and none a traceback."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.service import default_config
from deployments.configuration.serve_config import check_config, load_config
from deployments.configuration.yaml_file import read_yaml
from pipelines.errors import ConfigError


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ("applications: []".encode("utf-16"), "is no text in UTF-8: invalid start byte at byte 0; save it as UTF-8"),
        (b"[" * 20_000, "is nested more deeply than any config"),
        (b"applications: []\nhttp_options: {port: 1}\napplications: []", "the key applications is given twice"),
        (b"http_options: {port: 1, host: a, port: 2}", "the key port is given twice"),
        (b"a: [", "cannot be read"),
    ],
    ids=["utf-16", "nested", "twice", "twice below", "unfinished"],
)
def test_a_file_that_cannot_be_read(tmp_path: Path, data: bytes, why: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(data)
    with pytest.raises(ConfigError) as refused:
        load_config(path)
    assert str(path) in refused.value.message
    assert why in refused.value.message


def test_a_mapping_that_is_merged_may_have_the_same_keys(tmp_path: Path) -> None:
    """As the sample configs do it."""
    path = tmp_path / "config.yaml"
    path.write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\nc: {d: {e: &e {<<: *a, x: 3}}}\nf: {<<: *e, x: 4}")
    read = read_yaml(path)
    assert (read["b"], read["f"]) == ({"x": 3, "y": 2}, {"x": 4, "y": 2})


def args(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda application: application.setdefault("args", {}).update(values)


def publisher(**values: Any) -> Callable[[dict[str, Any]], None]:
    def change(application: dict[str, Any]) -> None:
        (deployment,) = [each for each in application["deployments"] if each["name"] == "Publisher"]
        deployment.update(values)

    return change


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (args(max_attempts=10**23), "args.max_attempts"),
        (args(threads={"denoise": 10**20}), "args.threads.denoise"),
        (args(lease_s=float("inf")), "args.lease_s: must be a finite number"),
        (args(lease_s=1e300), "args.lease_s"),
        (args(max_queued=10**30), "args.max_queued"),
        (args(allowed_hosts=["a:99999"]), "'a:99999' has a port that is not between 1 and 65535"),
        (publisher(ray_actor_options={"num_cpus": float("inf")}), "num_cpus: inf is more than any cluster has"),
        (publisher(ray_actor_options={"num_cpus": 1e300}), "num_cpus: 1e+300 is more than any cluster has"),
        (publisher(num_replicas=10**23), "num_replicas: 1e+23 is more than any cluster has"),
        (lambda application: application.update(runtime_env={"env_vars": {"PATH": 3}}), "PATH: 3 must be text"),
    ],
)
def test_what_no_machine_has_is_not_sound(change: Callable[[dict[str, Any]], None], why: str) -> None:
    config = copy.deepcopy(yaml.safe_load(default_config().read_text()))
    assert check_config(config) == []
    change(config["applications"][0])
    assert any(why in problem for problem in check_config(config)), check_config(config)


@pytest.mark.parametrize("limit_s", [-1, float("inf"), float("nan")])
def test_a_time_limit_that_is_none(limit_s: float) -> None:
    config = yaml.safe_load(default_config().read_text())
    config["http_options"]["request_timeout_s"] = limit_s
    assert any("request_timeout_s" in problem and "leave it out" in problem for problem in check_config(config))
