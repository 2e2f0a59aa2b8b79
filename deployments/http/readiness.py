"""Which stages can take a call, which still load, and which cannot start: from Serve's own status and the job store.

A model can be served unless a stage of it cannot start, so that its jobs fail; while a stage loads, they wait for it.
The service is ready when nothing loads and at least one model can be served: a broken checkpoint takes down its own
models only, and a replica that fails where others work takes down none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from ray import serve
from ray.serve.schema import DeploymentStatus, DeploymentStatusOverview, ReplicaState

from deployments.application import look
from deployments.configuration.names import ALWAYS, APPLICATION
from deployments.http.cached import Known
from deployments.http.failed_starts import FailedStarts
from jobs.stage_failures import GIVEN_UP_AT, StageFailure
from pipelines.stages import Stage

STALE_S = 5.0
"""What was known so long ago is not relied on any more."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """What GET /readyz says."""

    loading: tuple[str, ...]
    """The deployments that cannot take a call yet."""
    cannot_start: Mapping[str, str]
    """Why: of the deployments that refuse their calls, and of those of which a replica has failed to start.

    The latter still load, or other replicas of them work: the fault may be one node's.
    """
    unavailable: Mapping[str, str]
    """The models whose jobs fail, since a stage refuses its calls, with the reason."""
    models: int
    """How many models the service has."""
    store_silent_s: float = 0.0
    """Seconds since the job store has answered."""

    @property
    def status(self) -> Literal["ready", "loading", "unavailable"]:
        if self.loading:
            return "loading"
        return "ready" if len(self.unavailable) < self.models else "unavailable"


def answer(known: Known[Readiness] | None) -> tuple[int, dict[str, Any]]:
    """The status and the body of GET /readyz."""
    if known is None:
        return 503, {"status": "unknown", "waiting_for": ["application"], "cannot_start": {}}
    now = known.value
    body = {"status": now.status, "waiting_for": now.loading, "cannot_start": now.cannot_start}
    age_s = known.age_s + now.store_silent_s
    if age_s > STALE_S:  # nobody answers: either Serve's controller, or the job store
        return 503, {**body, "status": "unknown", "last_status": now.status, "age_s": round(age_s, 1)}
    return 200 if now.status == "ready" else 503, body


def readiness(names: Mapping[str, Mapping[Stage, str]], failures: FailedStarts) -> Readiness:
    """Ask Serve and the job store. Blocks, for the latter no longer than a probe may take.

    Args:
        names: the deployment of each stage of each model.
    """
    application = serve.status().applications.get(APPLICATION)
    if application is None:
        return Readiness(("application",), {}, {}, len(names))
    failed = failures.all(deployed_at=application.last_deployed_time_s)
    # Only here is it of interest which replicas run: the controller answers this less quickly.
    running = look().running if any(each.refusing for each in failed.values()) else {}
    return replace(judge(application.deployments, failed, running, names), store_silent_s=failures.age_s)


def judge(
    deployments: Mapping[str, DeploymentStatusOverview],
    failed: Mapping[str, StageFailure],
    running: Mapping[str, frozenset[str]],
    names: Mapping[str, Mapping[Stage, str]],
) -> Readiness:
    """The readiness of a service.

    Args:
        deployments: Serve's status of each.
        failed: those of which a replica failed to start, and no other has started since.
        running: the replicas of each that run, at least of those that have some that refuse.
        names: the deployment of each stage of each model.
    """
    loading: list[str] = []
    cannot_start: dict[str, str] = {}
    refusing: dict[str, str] = {}
    unavailable: dict[str, str] = {}
    for name, deployment in sorted(deployments.items()):
        failure = failed.get(name)
        if refuses(deployment, failure, running.get(name, frozenset())):
            cannot_start[name] = refusing[name] = _reason(name, deployment, failure)
            continue
        if failure is not None:
            cannot_start[name] = failure.message
        if not is_ready(deployment):
            loading.append(name)
    for model, stages in names.items():
        needed = (*stages.values(), *ALWAYS)
        if (reason := next((refusing[name] for name in needed if name in refusing), None)) is not None:
            unavailable[model] = reason
    return Readiness(tuple(loading), cannot_start, unavailable, len(names))


def refuses(deployment: DeploymentStatusOverview, failure: StageFailure | None, running: frozenset[str]) -> bool:
    """Whether a deployment's every call would be refused, or Serve has given up starting it."""
    has_running = bool(deployment.replica_states.get(ReplicaState.RUNNING))
    if deployment.status is DeploymentStatus.DEPLOY_FAILED and not has_running:
        return True
    if failure is None:
        return False
    if has_running:
        return bool(running) and running <= failure.refusing
    at_zero = not any(deployment.replica_states.values())
    return at_zero and failure.failures >= GIVEN_UP_AT


def is_ready(deployment: DeploymentStatusOverview) -> bool:
    """Whether a deployment has a running replica, or was scaled to zero by its load, as its config allows.

    A deployment that is scaling up from zero counts as ready: jobs wait for it in the store, and a load balancer that
    asks must not reject the jobs that come after them.
    """
    if deployment.replica_states.get(ReplicaState.RUNNING):
        return True
    at_zero = deployment.status is DeploymentStatus.HEALTHY and not any(deployment.replica_states.values())
    return at_zero or deployment.status in (DeploymentStatus.UPSCALING, DeploymentStatus.DOWNSCALING)


def _reason(name: str, deployment: DeploymentStatusOverview, failure: StageFailure | None) -> str:
    if failure is not None:
        return failure.message
    said = [line.strip() for line in deployment.message.splitlines() if line.strip()] or ["it could not be started"]
    return f"{name} was given up: {said[0]}" + (f" {said[-1]}" if len(said) > 1 else "")
