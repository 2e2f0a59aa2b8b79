"""Which replicas there are, from the Serve controller. Serve tells no user code that its replica is about to stop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ray.serve.context import _get_global_client
from ray.serve.schema import ReplicaState

from deployments.readiness import APPLICATION


@dataclass(frozen=True, slots=True)
class Replicas:
    """A moment's view of the application."""

    running: dict[str, frozenset[str]]
    """Ids of the replicas of each deployment that take calls."""
    stopping: frozenset[str]
    """Ids of the replicas that were told to stop: scale-in, redeployment, a node that drains."""


def look() -> Replicas:
    """Ask the controller. Blocks for some milliseconds."""
    details: dict[str, Any] = _get_global_client().get_serve_details()
    deployments = details["applications"].get(APPLICATION, {}).get("deployments", {})
    running: dict[str, frozenset[str]] = {}
    stopping: set[str] = set()
    for name, deployment in deployments.items():
        replicas = deployment["replicas"]
        running[name] = frozenset(r["replica_id"] for r in replicas if r["state"] == ReplicaState.RUNNING)
        stopping.update(r["replica_id"] for r in replicas if r["state"] == ReplicaState.STOPPING)
    return Replicas(running, frozenset(stopping))
