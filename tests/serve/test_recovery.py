"""A job outlives the processes that work on it."""

from __future__ import annotations

import os
import signal
from typing import Any

import ray

from tests.conftest import ServiceClient


def replica_pid(deployment: str) -> int:
    from ray import serve

    details: Any = serve.context._get_global_client().get_serve_details()
    (replica,) = details["applications"]["kinoray"]["deployments"][deployment]["replicas"]
    pid: int = replica["pid"]
    return pid


def test_a_killed_denoiser_costs_a_retry_not_the_job(service: ServiceClient) -> None:
    assert ray.is_initialized()
    job = service.create(num_inference_steps=60, width=128, height=128)
    before = service.until(job["id"], lambda v: v["progress"] > 10)
    os.kill(replica_pid("Denoiser-ltx-tiny"), signal.SIGKILL)
    after = service.until(job["id"], lambda v: v["status"] in ("completed", "failed"))
    assert after[-1]["status"] == "completed"
    assert after[-1]["attempts"] == 2
    progress = [video["progress"] for video in before + after]
    assert progress == sorted(progress)


def test_a_killed_conductor_loses_its_lease_and_not_the_job(service: ServiceClient) -> None:
    job = service.create(num_inference_steps=60, width=128, height=128)
    service.until(job["id"], lambda v: v["leg"] == "denoise")
    os.kill(replica_pid("Conductor"), signal.SIGKILL)
    assert service.finish(job["id"])["attempts"] == 2
