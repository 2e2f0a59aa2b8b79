"""Stages that scale together, jobs that are preempted, a new config under load: on real Ray, with a simulated model."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator

import pytest

from cli.service import free_port, run_service
from deployments.configuration.serve_config import load_config
from deployments.orchestration.replicas import Replicas, look
from pipelines.paths import ROOT
from tests.conftest import DEADLINE_S, ServiceClient
from tests.harness.serving import deploy

pytestmark = pytest.mark.long

DENOISER, DECODER, ENCODER = "Denoiser-simulated", "VideoDecoder-simulated", "TextEncoder-simulated"
STAGES = (DENOISER, DECODER, ENCODER)
SMALL = {"model": "simulated", "width": 64, "height": 64, "num_frames": 9}  # an eighth of a second for each step


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceClient]:
    config = load_config(ROOT / "configs/simulated.yaml")
    config["http_options"]["port"] = free_port()
    (application,) = config["applications"]
    application["autoscaling_policy"]["policy_kwargs"]["drain_s"] = 2
    application["args"]["preempt_after_s"] = 1
    for deployment in application["deployments"]:
        if (scaling := deployment.get("autoscaling_config")) is not None:
            scaling.update(max_replicas=min(scaling["max_replicas"], 4), downscale_delay_s=1)
            scaling.update(downscale_to_zero_delay_s=1)
    with run_service(config, data=tmp_path_factory.mktemp("scale"), private=True, graceful=False) as url:
        client = ServiceClient(url, config)
        yield client
        client.http.close()


def until(reached: Callable[[Replicas], bool]) -> list[Replicas]:
    """Every view of the replicas until one is as it should be."""
    seen: list[Replicas] = []
    deadline = time.monotonic() + DEADLINE_S
    while not (seen and reached(seen[-1])):
        assert time.monotonic() < deadline, seen[-1]
        seen.append(look())
        time.sleep(0.2)
    return seen


def test_a_burst_wakes_every_stage_and_nothing_is_left_of_it(service: ServiceClient) -> None:
    idle = until(lambda now: not any(now.running.get(each) for each in STAGES))[-1]
    assert {"Api", "Conductor", "Publisher"} <= idle.running.keys()
    assert service.http.get("/readyz").status_code == 200, "what scaled to zero is ready"
    jobs = [service.create(**SMALL, num_inference_steps=steps)["id"] for steps in [160] * 4 + [20] * 6]
    waking = until(lambda now: len(now.running[DENOISER]) == 4 and bool(now.running[DECODER]))
    assert {service.get(job)["stage"] for job in jobs} <= {None, "text_encode", "denoise"}, "a decoder was warm before"
    assert max(len(now.running[ENCODER]) for now in waking) == 1, "a tenth of a second is no work for two"
    done = [service.finish(job) for job in jobs]
    assert {video["attempts"] for video in done} == {1}, "no job was killed by the scale-in that followed"
    until(lambda now: not any(now.running.get(each) for each in STAGES))
    assert service.finish(service.create(**SMALL, num_inference_steps=4)["id"])["attempts"] == 1, "and back"


def test_a_long_video_is_preempted_by_a_preview_at_a_step_and_goes_on_from_there(service: ServiceClient) -> None:
    others = [service.create(**SMALL, num_inference_steps=1000)["id"] for _ in range(3)]
    for job in others:
        service.until(job, lambda video: (video["step"] or 0) > 0)
    low = service.create(**SMALL, num_inference_steps=160, priority="low")["id"]
    service.until(low, lambda video: (video["step"] or 0) > 0)
    preview = service.finish(service.create(**SMALL, num_inference_steps=4, priority="high")["id"])
    assert {service.get(job)["status"] for job in [low, *others]} == {"in_progress"}, "it waited for none of them"
    for job in others:
        service.http.post(f"/v1/videos/{job}/cancel").raise_for_status()
    done = service.finish(low)
    assert (preview["attempts"], done["attempts"]) == (1, 1), "to be preempted is no fault"
    assert 0 < done["result_metadata"]["resumed_at_step"] < 160


def test_a_changed_config_under_load_loses_no_job(service: ServiceClient) -> None:
    before = until(lambda now: "Conductor" in now.running and bool(now.running["Conductor"]))[-1]
    jobs = [service.create(**SMALL, num_inference_steps=steps)["id"] for steps in [120, 40] * 4]
    service.until(jobs[0], lambda video: (video["step"] or 0) > 0)
    config = copy.deepcopy(service.config)
    config["applications"][0]["args"]["look_ahead"] = 2
    deploy(config)
    done = [service.finish(job) for job in jobs]
    assert {video["attempts"] for video in done} == {1}
    after = until(lambda now: bool(now.running["Conductor"]))[-1]
    assert not {*before.running["Conductor"]} & {*after.running["Conductor"]}, "every replica is a new one"
    assert any("resumed_at_step" in video["result_metadata"] for video in done), "what was at work has migrated"
