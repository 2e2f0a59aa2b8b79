"""A job outlives the processes that work on it: told to stop, they give it up. More is killed in tests/chaos."""

from __future__ import annotations

import copy
import os
import signal
from pathlib import Path

import pytest

from tests.conftest import DEADLINE_S, ServiceClient
from tests.harness.processes import until
from tests.harness.serving import deploy, replica_pid, replicas


def test_a_conductor_never_reads_a_stage_output(service: ServiceClient) -> None:
    service.finish(service.create(num_inference_steps=2)["id"])
    mapped = Path(f"/proc/{replica_pid('Conductor')}/maps").read_text()
    assert "libtorch" not in mapped, "it has unpickled a tensor"


def scale(service: ServiceClient, deployment: str, replicas: int) -> None:
    """Deploy the service's config again, with another number of replicas."""
    config = copy.deepcopy(service.config)
    (options,) = [each for each in config["applications"][0]["deployments"] if each["name"] == deployment]
    options["num_replicas"] = replicas
    deploy(config)


def test_a_job_goes_on_from_its_last_checkpoint_when_its_denoiser_is_killed(service: ServiceClient) -> None:
    fields = {"num_inference_steps": 120, "width": 128, "height": 128}
    undisturbed = service.content(service.finish(service.create(seed=1, **fields)["id"])["id"])
    job = service.create(seed=1, **fields)
    service.until(job["id"], lambda video: (video["step"] or 0) > 20)
    pid = replica_pid("Denoiser-ltx-tiny")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    done = service.finish(job["id"])
    assert done["attempts"] == 2
    assert 0 < done["result_metadata"]["resumed_at_step"] < 120
    assert service.content(job["id"]) == undisturbed


@pytest.mark.long
def test_a_job_migrates_at_a_step_from_a_denoiser_that_is_told_to_stop(service: ServiceClient) -> None:
    fields = {"num_inference_steps": 120, "width": 128, "height": 128}  # some seconds, also on a fast machine
    undisturbed = service.content(service.finish(service.create(seed=1, **fields)["id"])["id"])
    scale(service, "Denoiser-ltx-tiny", 2)
    until(lambda: len(replicas("Denoiser-ltx-tiny")) >= 2, "a second denoiser runs", DEADLINE_S)
    jobs = [service.create(seed=1, **fields) for _ in range(2)]
    for job in jobs:
        service.until(job["id"], lambda video: (video["step"] or 0) > 5)
    scale(service, "Denoiser-ltx-tiny", 1)
    done = [service.finish(job["id"]) for job in jobs]
    assert [video["attempts"] for video in done] == [1, 1], "to be migrated is no fault"
    resumed = [
        video["result_metadata"]["resumed_at_step"] for video in done if "resumed_at_step" in video["result_metadata"]
    ]
    assert len(resumed) == 1
    assert 5 < resumed[0] < 120
    assert [service.content(job["id"]) for job in jobs] == [undisturbed] * 2, "resumed or not, the same bytes"
