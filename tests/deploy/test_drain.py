"""What becomes of a job whose pod is told to stop, on a node that starts as KubeRay starts a pod's Ray."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import ray

from cli.service import free_port, run_service
from deployments.configuration.serve_config import load_config
from pipelines.paths import ROOT
from tests.conftest import ServiceClient
from tests.harness.processes import kill_tree, until
from tests.harness.serving import replicas

DENOISER = "Denoiser-simulated"
SMALL = {"model": "simulated", "width": 64, "height": 64, "num_frames": 9}  # an eighth of a second for each step
DRAINS_FOR_S = "100"  # as in k8s/base/rayservice.yaml
START_S = 240
SWITCH = "KINORAY_TEST_CLUSTERS"

pytestmark = pytest.mark.skipif(
    SWITCH not in os.environ, reason=f"drains a node: `make test-clusters`, or set {SWITCH}=1"
)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[ServiceClient]:
    """With a denoiser on this node, and one that waits for another node."""
    config = load_config(ROOT / "configs/simulated.yaml")
    config["http_options"]["port"] = free_port()
    for deployment in config["applications"][0]["deployments"]:
        if deployment["name"] == DENOISER:
            deployment["autoscaling_config"].update(min_replicas=2, max_replicas=2)
            deployment["max_replicas_per_node"] = 1
    with run_service(config, data=tmp_path / "data", private=True, graceful=False) as url:
        client = ServiceClient(url, config)
        yield client
        client.http.close()


@contextmanager
def another_node(log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A node of this process's cluster; its process is the shell that a pod begins with."""
    address = ray.get_runtime_context().gcs_address
    ray_start = f"{sys.executable} -m ray.scripts.scripts start --address={address} --node-ip-address=127.0.0.1"
    command = f"ulimit -n ${{RAY_START_ULIMIT_OPEN_FILES:-65536}}; {ray_start} --num-cpus=1 --block"
    variables = {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": DRAINS_FOR_S, "RAY_raylet_start_wait_time_s": str(START_S)}
    with log.open("w") as output:
        process = subprocess.Popen(
            ["/bin/bash", "-c", "--", command], env={**os.environ, **variables},
            start_new_session=True, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        yield process
    finally:
        kill_tree(process.pid)
        process.wait()


def test_a_pod_that_is_told_to_stop_hands_its_job_over_and_then_ends(service: ServiceClient, tmp_path: Path) -> None:
    with another_node(tmp_path / "node.log") as node:
        until(lambda: len(replicas(DENOISER)) == 2, "the other node has a denoiser", START_S)
        jobs = [service.create(**SMALL, num_inference_steps=120)["id"] for _ in range(2)]
        for job in jobs:
            service.until(job, lambda video: (video["step"] or 0) > 0)
        node.send_signal(signal.SIGTERM)
        node.wait(float(DRAINS_FOR_S))
        assert len(replicas(DENOISER)) == 1
        done = [service.finish(job) for job in jobs]
    assert [video["attempts"] for video in done] == [1, 1], "to be told to stop is no fault"
    assert len([video for video in done if video["result_metadata"].get("resumed_at_step")]) == 1
