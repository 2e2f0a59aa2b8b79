"""The application as Serve's controller sees it: when it was deployed, and which replicas run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ray.serve.context import _get_global_client
from ray.serve.schema import ReplicaState

from deployments.configuration.names import APPLICATION


@dataclass(frozen=True, slots=True)
class Application:
    """A snapshot of the application."""

    deployed_at: float
    """When it was last deployed, in seconds since the epoch of the controller's clock; this names that deployment."""
    running: Mapping[str, frozenset[str]]
    """Ids of the replicas of each deployment that take calls."""


def details() -> Mapping[str, Any]:
    """What the controller knows of the application; empty while it has none. Blocks for some milliseconds."""
    known: dict[str, Any] = _get_global_client().get_serve_details()
    found: Mapping[str, Any] = known["applications"].get(APPLICATION, {})
    return found


def look() -> Application:
    """Ask the controller. Blocks for some milliseconds."""
    found = details()
    running = {
        name: frozenset(each["replica_id"] for each in deployment["replicas"] if each["state"] == ReplicaState.RUNNING)
        for name, deployment in found.get("deployments", {}).items()
    }
    return Application(found.get("last_deployed_time_s", 0.0), running)
