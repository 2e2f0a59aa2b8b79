"""What tests ask of a config file."""

from __future__ import annotations

from typing import Any

import yaml

from pipelines.paths import ROOT

SERVE = ROOT / "configs/clusters/serve.yaml"
"""The service on machines that are alike; beside it are only files for `ray up`."""


def clusters() -> dict[str, dict[str, Any]]:
    """Every file for `ray up`, by the provider that it is for."""
    found = {path.stem: path for path in sorted(SERVE.parent.glob("*.yaml")) if path != SERVE}
    return {name: yaml.safe_load(path.read_text()) for name, path in {"aws": ROOT / "cluster.yaml", **found}.items()}


def most_replicas(deployment: dict[str, Any]) -> int:
    """How many replicas an entry of `deployments` may come to."""
    scaling = deployment.get("autoscaling_config")
    most: int = scaling["max_replicas"] if scaling else deployment["num_replicas"]
    return most
