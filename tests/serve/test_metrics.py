"""What Prometheus finds on the node's metrics port, and what the logs say."""

from __future__ import annotations

import json
import time
import urllib.request
from pathlib import Path

import pytest
import ray

from tests.conftest import DEADLINE_S, ServiceClient

WANTED = {
    "ray_kinoray_jobs_total{": 'outcome="completed"',
    "ray_kinoray_queue_wait_seconds_bucket{": 'model="ltx-tiny"',
    "ray_kinoray_stage_seconds_bucket{": 'stage="denoise"',
    "ray_kinoray_step_seconds_bucket{": 'model="ltx-tiny"',
    "ray_kinoray_stage_output_bytes_bucket{": 'stage="decode"',
    "ray_kinoray_frames_total{": 'model="ltx-tiny"',
    "ray_kinoray_model_load_seconds_bucket{": 'stage="text_encode"',
}


def test_every_metric_is_exported(service: ServiceClient) -> None:
    service.finish(service.create()["id"])
    (node,) = [node for node in ray.nodes() if node["Alive"]]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    deadline = time.monotonic() + DEADLINE_S
    while True:
        with urllib.request.urlopen(url, timeout=10) as response:
            lines = response.read().decode().splitlines()
        missing = [
            name for name, label in WANTED.items() if not any(line.startswith(name) and label in line for line in lines)
        ]
        if not missing or time.monotonic() > deadline:
            break
        time.sleep(1)  # replicas report every few seconds
    assert missing == []


def logged() -> str:
    """All that Serve's processes have logged."""
    logs = Path(ray._private.worker._global_node.get_session_dir_path()) / "logs" / "serve"
    return "".join(path.read_text() for path in logs.glob("*.log"))


@pytest.mark.usefixtures("service")
def test_the_proxy_has_its_gate() -> None:
    assert "Calling user-provided callback from import path 'deployments.http.proxy_gate:install'" in logged()


def test_events_are_json_lines_without_prompts(service: ServiceClient) -> None:
    prompt = "a purple square stays still on a gray background"
    video = service.finish(service.create(prompt=prompt)["id"])
    text = logged()
    events = [json.loads(line) for line in text.splitlines() if video["id"] in line]
    seen = {(event.get("event"), event.get("stage")) for event in events}
    assert {
        ("job.accepted", None),
        ("job.claimed", None),
        ("stage.finished", "denoise"),
        ("job.completed", None),
    } <= seen
    of_the_job = [event for event in events if event.get("event", "").startswith(("job.", "stage."))]
    assert {event["model"] for event in of_the_job} == {"ltx-tiny"}
    assert prompt not in text
