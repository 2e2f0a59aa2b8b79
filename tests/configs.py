"""What tests ask of a config file."""

from __future__ import annotations

from typing import Any


def most_replicas(deployment: dict[str, Any]) -> int:
    """How many replicas an entry of `deployments` may come to."""
    scaling = deployment.get("autoscaling_config")
    most: int = scaling["max_replicas"] if scaling else deployment["num_replicas"]
    return most
