"""Lists the replicas, from the Serve controller. Serve does not tell user code that its replica is about to stop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ray.serve.schema import ReplicaState

from deployments.application import details


@dataclass(frozen=True, slots=True)
class Replicas:
    """A snapshot of the application's replicas."""

    running: dict[str, tuple[str, ...]]
    """Ids of the replicas of each deployment that take calls; those that a scale-in stops last come first."""
    stopping: frozenset[str]
    """Ids of the replicas that were told to stop, by a scale-in, a redeployment or a draining node."""


def look() -> Replicas:
    """Ask the controller. Blocks for some milliseconds."""
    deployments = details().get("deployments", {})
    stopping = {
        each["replica_id"]
        for deployment in deployments.values()
        for each in deployment["replicas"]
        if each["state"] == ReplicaState.STOPPING
    }
    return Replicas(last_stopped_first(deployments), frozenset(stopping))


def last_stopped_first(deployments: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """The replicas of each deployment that take calls, roughly in the reverse of the order in which Serve stops them.

    Serve empties the node with the fewest replicas first; among equals, the older node. On one node it stops the newest
    replica first. Before that it compares labels and spares the head node, in which GPU nodes seldom differ.
    """
    running = {
        name: [each for each in deployment["replicas"] if each["state"] == ReplicaState.RUNNING]
        for name, deployment in deployments.items()
    }
    starts: dict[str, list[float]] = {}
    for each in (each for replicas in running.values() for each in replicas):
        starts.setdefault(each["node_id"], []).append(each["start_time_s"])

    def place(replica: Any) -> tuple[int, float, float, str]:
        on_node = starts[replica["node_id"]]
        return -len(on_node), -min(on_node), replica["start_time_s"], replica["replica_id"]

    return {
        name: tuple(each["replica_id"] for each in sorted(replicas, key=place)) for name, replicas in running.items()
    }
