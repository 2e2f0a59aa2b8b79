"""Legs that scale together from nothing to several replicas and back, on real Ray; they are simulated."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from deployments.config import load_config
from deployments.replicas import Replicas, look
from deployments.service import free_port, run_service
from pipelines.card import ROOT
from tests.conftest import ServiceClient

DENOISER, DECODER, ENCODER = "Denoiser-simulated", "VideoDecoder-simulated", "TextEncoder-simulated"
SMALL = {"model": "simulated", "width": 64, "height": 64, "num_frames": 9}  # an eighth of a second for each step


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceClient]:
    config = load_config(ROOT / "configs/simulated.yaml")
    config["http_options"]["port"] = free_port()
    (application,) = config["applications"]
    application["autoscaling_policy"]["policy_kwargs"]["drain_s"] = 2
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
    deadline = time.monotonic() + 90
    while not (seen and reached(seen[-1])):
        assert time.monotonic() < deadline, seen[-1]
        seen.append(look())
        time.sleep(0.2)
    return seen


def test_a_burst_wakes_every_leg_and_nothing_is_left_of_it(service: ServiceClient) -> None:
    idle = until(lambda now: not any(now.running.get(each) for each in (DENOISER, DECODER, ENCODER)))[-1]
    assert {"Api", "Conductor", "Publisher"} <= idle.running.keys()
    assert service.http.get("/readyz").status_code == 200, "what scaled to zero is ready"
    jobs = [service.create(**SMALL, num_inference_steps=steps)["id"] for steps in [80] * 4 + [20] * 6]
    waking = until(lambda now: now.running.get(DENOISER, 0) == 4 and now.running.get(DECODER, 0) > 0)
    assert {service.get(job)["leg"] for job in jobs} <= {None, "encode", "denoise"}, "a decoder was warm before"
    assert max(now.running.get(ENCODER, 0) for now in waking) == 1, "a tenth of a second is no work for two"
    done = [service.finish(job) for job in jobs]
    assert {video["attempts"] for video in done} == {1}, "no job was killed by the scale-in that followed"
    until(lambda now: not any(now.running.get(each) for each in (DENOISER, DECODER, ENCODER)))
    assert service.finish(service.create(**SMALL, num_inference_steps=4)["id"])["attempts"] == 1, "and back"
