"""Checks whether every stage has a warm replica, from Serve's own status."""

from __future__ import annotations

from ray import serve
from ray.serve.schema import DeploymentStatus, DeploymentStatusOverview, ReplicaState

from deployments.configuration.names import APPLICATION


def missing_stages() -> list[str]:
    """Names of the deployments that cannot take a call now. Blocks for a call to the controller."""
    application = serve.status().applications.get(APPLICATION)
    if application is None:
        return ["application"]
    return sorted(name for name, deployment in application.deployments.items() if not is_ready(deployment))


def is_ready(deployment: DeploymentStatusOverview) -> bool:
    """Whether a deployment has a running replica, or was scaled to zero by its load, as its config allows.

    A deployment that is scaling up from zero counts as ready: jobs wait for it in the store, and a load balancer that
    asks must not reject the jobs that come after them.
    """
    if deployment.replica_states.get(ReplicaState.RUNNING):
        return True
    at_zero = deployment.status is DeploymentStatus.HEALTHY and not any(deployment.replica_states.values())
    return at_zero or deployment.status in (DeploymentStatus.UPSCALING, DeploymentStatus.DOWNSCALING)
