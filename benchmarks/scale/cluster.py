"""A Ray cluster on this machine whose nodes and GPUs exist in name only; Ray's autoscaler starts and ends its nodes.

`FakeMultiNodeProvider` is what Ray tests its own autoscaler with. Every node has a raylet of its own, which can be
killed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

from cli.service import environment, free_port
from pipelines.paths import ROOT
from tests.harness.processes import below, kill_tree, title, until

HEAD = "ray.head.default"
STORE_BYTES = 200 * 2**20
START_S = 120


@dataclass(frozen=True, slots=True)
class Cluster:
    """A head without GPU work, or with all of it, and the nodes that come and go."""

    address: str
    pid: int

    def nodes(self) -> list[psutil.Process]:
        """The raylets of the nodes that the autoscaler has started."""
        raylets = [each for each in below(self.pid) if "/raylet/raylet " in title(each)]
        return [each for each in raylets if each.ppid() != self.pid]  # that one is the head's own


@contextmanager
def run_cluster(folder: Path, *, head_gpus: int = 0, most_nodes: int = 0, **variables: str) -> Iterator[Cluster]:
    """Start a head, and let up to `most_nodes` nodes of one GPU each join when they are needed.

    Args:
        folder: `KINORAY_DATA` of every node.
        variables: what else is in every node's environment.
    """
    port = free_port()
    address = f"127.0.0.1:{port}"
    sockets = tempfile.mkdtemp(prefix="kinoray-", dir="/tmp")  # short, since the paths of sockets are limited
    options = {
        "port": port, "node-ip-address": "127.0.0.1", "temp-dir": sockets, "num-cpus": 8, "num-gpus": head_gpus,
        "object-store-memory": 4 * STORE_BYTES, "include-dashboard": "false", "include-log-monitor": "false",
        "autoscaling-config": _autoscaling(folder, address, head_gpus, most_nodes),
    }  # fmt: skip
    words = [f"--{name}={value}" for name, value in options.items()]
    process = subprocess.Popen(
        [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", *words, "--block"],
        cwd=ROOT, env={**os.environ, **environment(folder), **_FAKE, **variables}, start_new_session=True,
        stdout=(folder / "ray.log").open("w"), stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        until(lambda: "Ray runtime started" in (folder / "ray.log").read_text(), "Ray runs", START_S)
        yield Cluster(address, process.pid)
    finally:
        kill_tree(process.pid)
        process.wait()
        shutil.rmtree(sockets, ignore_errors=True)


_FAKE = {
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    "RAY_FAKE_CLUSTER": "1",
    "RAY_enable_autoscaler_v2": "1",
    "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
}


def _autoscaling(folder: Path, address: str, head_gpus: int, most_nodes: int) -> Path:
    node = {"CPU": 1, "GPU": 1, "object_store_memory": STORE_BYTES}
    provider = {
        "type": "external",
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "gcs_address": address, "head_node_id": FAKE_HEAD_NODE_ID, "launch_multiple": True,
        "use_node_id_as_ip": True, "disable_node_updaters": True, "disable_launch_config_check": True,
    }  # fmt: skip
    nothing: dict[str, Any] = {
        **{key: {} for key in ("auth", "docker", "file_mounts")},
        **{key: [] for key in ("cluster_synced_files", "rsync_exclude", "rsync_filter", "initialization_commands")},
        **{key: [] for key in ("setup_commands", "head_setup_commands", "worker_setup_commands")},
        **{key: [] for key in ("head_start_ray_commands", "worker_start_ray_commands")},
    }
    config = {
        **nothing, "cluster_name": "scale", "max_workers": most_nodes, "upscaling_speed": 8.0,
        "idle_timeout_minutes": 0.1, "provider": provider, "file_mounts_sync_continuously": False,
        "head_node_type": HEAD,
        "available_node_types": {
            HEAD: {"resources": {"CPU": 8, "GPU": head_gpus}, "node_config": {}, "max_workers": 0},
            "gpu": {"resources": node, "node_config": {}, "min_workers": 0, "max_workers": most_nodes},
        },
    }  # fmt: skip
    path = folder / "autoscaling.json"
    path.write_text(json.dumps(config))
    return path
