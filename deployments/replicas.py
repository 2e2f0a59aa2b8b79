"""Which replicas there are, from the Serve controller. Serve tells no user code that its replica is about to stop."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from ray.serve.context import _get_global_client
from ray.serve.schema import ReplicaState

from deployments.readiness import APPLICATION


@dataclass(frozen=True, slots=True)
class Replicas:
    """A moment's view of the application."""

    running: dict[str, int]
    """How many replicas of each deployment take calls."""
    stopping: frozenset[str]
    """Ids of the replicas that were told to stop: scale-in, redeployment, a node that drains."""


def look() -> Replicas:
    """Ask the controller. Blocks for some milliseconds."""
    details: dict[str, Any] = _get_global_client().get_serve_details()
    deployments = details["applications"].get(APPLICATION, {}).get("deployments", {})
    running: Counter[str] = Counter()
    stopping = set()
    for name, deployment in deployments.items():
        for replica in deployment["replicas"]:
            if replica["state"] == ReplicaState.RUNNING:
                running[name] += 1
            elif replica["state"] == ReplicaState.STOPPING:
                stopping.add(replica["replica_id"])
    return Replicas(dict(running), frozenset(stopping))
