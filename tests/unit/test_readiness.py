"""What counts as ready, in Serve's own terms and by what the job store knows of failed starts."""

from __future__ import annotations

import pytest
from ray.serve.schema import DeploymentStatus, DeploymentStatusOverview, DeploymentStatusTrigger, ReplicaState

from deployments.http.readiness import Readiness, is_ready, judge
from jobs.stage_failures import GIVEN_UP_AT, StageFailure
from pipelines.stages import Stage

HEALTHY, UPDATING, FAILED = DeploymentStatus.HEALTHY, DeploymentStatus.UPDATING, DeploymentStatus.DEPLOY_FAILED
RUNS = {ReplicaState.RUNNING: 1}
STARTS = {ReplicaState.STARTING: 1}
NAMES = {
    "a": {Stage.TEXT_ENCODE: "TextEncoder", Stage.DENOISE: "Denoiser-a"},
    "b": {Stage.TEXT_ENCODE: "TextEncoder", Stage.DENOISE: "Denoiser-b"},
}
EVERYTHING = ("Api", "Conductor", "Publisher", "TextEncoder", "Denoiser-a", "Denoiser-b")


def overview(
    status: DeploymentStatus, replicas: dict[ReplicaState, int], message: str = ""
) -> DeploymentStatusOverview:
    return DeploymentStatusOverview(
        status=status, status_trigger=DeploymentStatusTrigger.UNSPECIFIED, replica_states=replicas, message=message
    )


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
    assert is_ready(overview(status, replicas)) is ready


def judged(
    failed: dict[str, StageFailure] | None = None,
    running: dict[str, frozenset[str]] | None = None,
    **deployments: DeploymentStatusOverview,
) -> Readiness:
    """A service that runs, but for the deployments that are given; `_` stands for `-` in their names."""
    own = {name.replace("_", "-"): each for name, each in deployments.items()}
    all_of_them = {name: overview(HEALTHY, RUNS) for name in EVERYTHING} | own
    return judge(all_of_them, failed or {}, running or {}, NAMES)


def failure(count: int = GIVEN_UP_AT, *refusing: str) -> StageFailure:
    return StageFailure(count, "the file is broken", 1.0, frozenset(refusing))


def test_a_service_that_runs_is_ready() -> None:
    assert judged() == Readiness((), {}, {}, 2)
    assert judged().status == "ready"


def test_what_loads_is_waited_for() -> None:
    now = judged(Denoiser_a=overview(UPDATING, STARTS), TextEncoder=overview(UPDATING, STARTS))
    assert (now.status, now.loading, now.cannot_start) == ("loading", ("Denoiser-a", "TextEncoder"), {})


def test_the_first_failure_is_told_while_it_is_tried_again() -> None:
    now = judged({"Denoiser-a": failure(1)}, Denoiser_a=overview(UPDATING, STARTS))
    assert (now.status, now.loading) == ("loading", ("Denoiser-a",))
    assert now.cannot_start == {"Denoiser-a": "the file is broken"}
    assert now.unavailable == {}, "its jobs wait"


def test_a_stage_that_refuses_takes_down_its_own_models_only() -> None:
    now = judged({"Denoiser-a": failure(3, "r1")}, {"Denoiser-a": frozenset({"r1"})})
    assert (now.status, now.loading) == ("ready", ())
    assert now.cannot_start == {"Denoiser-a": "the file is broken"}
    assert now.unavailable == {"a": "the file is broken"}


def test_a_stage_that_all_models_share_takes_down_all_of_them() -> None:
    now = judged({"TextEncoder": failure(3, "r1")}, {"TextEncoder": frozenset({"r1"})})
    assert now.status == "unavailable"
    assert now.unavailable.keys() == {"a", "b"}
    still = judged(
        {"TextEncoder": failure(3, "r1")}, {"TextEncoder": frozenset({"r1"})}, Denoiser_b=overview(UPDATING, STARTS)
    )
    assert still.status == "loading"


TOLD = Readiness((), {"Denoiser-a": "the file is broken"}, {}, 2)
"""A fault of one node: it is told, and takes down no model."""


def test_a_stage_with_a_replica_that_works_is_ready_and_the_failure_of_another_is_told() -> None:
    now = judged({"Denoiser-a": failure(7, "r1")}, {"Denoiser-a": frozenset({"r1", "r2"})})
    assert (now, now.status) == (TOLD, "ready")
    assert judged({"Denoiser-a": failure(7, "r0")}, {"Denoiser-a": frozenset({"r2"})}) == TOLD
    for status in (UPDATING, DeploymentStatus.UNHEALTHY, DeploymentStatus.UPSCALING):
        assert judged({"Denoiser-a": failure(1)}, Denoiser_a=overview(status, RUNS | STARTS)) == TOLD


def test_a_stage_whose_replicas_are_not_known_is_taken_to_work() -> None:
    """They run, says Serve's status, and the controller did not list them a moment later."""
    assert judged({"Denoiser-a": failure(3, "r1")}, {}).status == "ready"


def test_a_stage_at_zero_that_had_been_given_up_cannot_start() -> None:
    at_zero = overview(HEALTHY, {})
    assert judged({"Denoiser-a": failure(GIVEN_UP_AT, "r1")}, Denoiser_a=at_zero).unavailable.keys() == {"a"}
    assert judged({"Denoiser-a": failure(GIVEN_UP_AT - 1)}, Denoiser_a=at_zero) == TOLD


def test_what_serve_has_given_up_does_not_load_any_more() -> None:
    said = "The deployment failed to start 3 times in a row. Error:\nTraceback\n\n  The worker died of memory.\n"
    now = judged(Denoiser_a=overview(FAILED, {}, said))
    assert (now.status, now.loading) == ("ready", ())
    assert now.cannot_start == {
        "Denoiser-a": "Denoiser-a was given up: The deployment failed to start 3 times in a row. Error: "
        "The worker died of memory."
    }
    assert now.unavailable.keys() == {"a"}
    known = judged({"Denoiser-a": failure(2)}, Denoiser_a=overview(FAILED, {}, said))
    assert known.cannot_start == {"Denoiser-a": "the file is broken"}
    silent = judged(Denoiser_a=overview(FAILED, {}))
    assert silent.cannot_start == {"Denoiser-a": "Denoiser-a was given up: it could not be started"}


def test_an_update_that_was_given_up_leaves_the_replicas_that_run() -> None:
    assert judged({"Denoiser-a": failure(3)}, Denoiser_a=overview(FAILED, RUNS)) == TOLD


def test_without_a_conductor_no_model_can_be_served() -> None:
    now = judged(Conductor=overview(FAILED, {}, "no job store"))
    assert now.status == "unavailable"
    assert now.cannot_start == {"Conductor": "Conductor was given up: no job store"}
