"""In which order denoisers get work, so that a scale-in finds idle ones."""

from __future__ import annotations

from typing import Any

from ray.serve.schema import ReplicaState

from deployments.orchestration.replicas import last_stopped_first


def replica(name: str, node: str, start: float, state: ReplicaState = ReplicaState.RUNNING) -> dict[str, Any]:
    return {"replica_id": name, "node_id": node, "start_time_s": start, "state": state}


def test_those_that_serve_stops_last_come_first() -> None:
    """Serve empties the nodes with the fewest replicas first; `DeploymentScheduler._get_replicas_to_stop`."""
    denoisers = [
        replica("alone-old", "a", 1.0),
        replica("alone-new", "b", 5.0),
        replica("shared-old", "c", 2.0),
        replica("shared-new", "c", 4.0),
        replica("starts", "d", 6.0, ReplicaState.STARTING),
    ]
    others = [replica("decoder", "c", 3.0)]
    order = last_stopped_first({"Denoiser-m": {"replicas": denoisers}, "VideoDecoder-m": {"replicas": others}})
    assert order == {
        "Denoiser-m": ("shared-old", "shared-new", "alone-new", "alone-old"),
        "VideoDecoder-m": ("decoder",),
    }
