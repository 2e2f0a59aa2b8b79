"""What counts as ready, in Serve's own terms."""

from __future__ import annotations

import pytest
from ray.serve.schema import DeploymentStatus, DeploymentStatusOverview, DeploymentStatusTrigger, ReplicaState

from deployments.http.readiness import is_ready


@pytest.mark.parametrize(
    ("status", "replicas", "ready"),
    [
        (DeploymentStatus.HEALTHY, {ReplicaState.RUNNING: 1}, True),
        (DeploymentStatus.UPDATING, {ReplicaState.RUNNING: 1, ReplicaState.STARTING: 1}, True),
        (DeploymentStatus.HEALTHY, {}, True),  # scaled to zero
        (DeploymentStatus.UPSCALING, {ReplicaState.STARTING: 1}, True),  # from zero: it waits for its node
        (DeploymentStatus.DOWNSCALING, {ReplicaState.STOPPING: 1}, True),
        (DeploymentStatus.UPDATING, {ReplicaState.STARTING: 1}, False),  # the first start
        (DeploymentStatus.UNHEALTHY, {ReplicaState.STARTING: 1}, False),  # its only replica died
        (DeploymentStatus.DEPLOY_FAILED, {}, False),
    ],
)
def test_a_deployment_is_ready(status: DeploymentStatus, replicas: dict[ReplicaState, int], ready: bool) -> None:
    overview = DeploymentStatusOverview(
        status=status, status_trigger=DeploymentStatusTrigger.UNSPECIFIED, replica_states=replicas, message=""
    )
    assert is_ready(overview) is ready
