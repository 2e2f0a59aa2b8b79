"""Whether every leg has a warm replica, from Serve's own status."""

from __future__ import annotations

from ray import serve
from ray.serve.schema import DeploymentStatus, ReplicaState

APPLICATION = "kinoray"


def missing_legs() -> list[str]:
    """Names of the deployments that could not take a call now. Blocks for a call to the controller.

    A deployment without any replica that Serve calls healthy is one its config scales to zero: it counts as ready.
    """
    application = serve.status().applications.get(APPLICATION)
    if application is None:
        return ["application"]
    return sorted(
        name
        for name, deployment in application.deployments.items()
        if not deployment.replica_states.get(ReplicaState.RUNNING)
        and not (deployment.status is DeploymentStatus.HEALTHY and not any(deployment.replica_states.values()))
    )
