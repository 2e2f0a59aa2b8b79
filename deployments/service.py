"""A service on this machine: its own Ray, deployed from a config file, stopped with the block that started it."""

from __future__ import annotations

import copy
import json
import os
import shutil
import socket
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from deployments.readiness import APPLICATION
from pipelines.catalogue import ROOT
from pipelines.errors import KinorayError

START_TIMEOUT_S = 300


class StartFailed(KinorayError):
    """The application did not come up; the message holds Serve's reason."""

    code = "start_failed"


def free_port() -> int:
    """A port of the loopback interface that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def default_config() -> Path:
    """The config file for this machine: the one for a GPU where the NVIDIA driver shows one."""
    return ROOT / "configs" / ("gpu.yaml" if Path("/dev/nvidia0").exists() else "local.yaml")


def for_model(config: dict[str, Any], model: str, *, with_image: bool) -> dict[str, Any]:
    """A config's copy that serves one model only, every leg once; without an image its encoder need not start."""
    config = copy.deepcopy(config)
    (application,) = config["applications"]
    replaced = application["args"].get("models", ["ltx-tiny"])[0]
    application["args"]["models"] = [model]
    kept = []
    for deployment in application["deployments"]:
        leg, dash, served = deployment["name"].partition("-")
        if dash and served != replaced:
            continue
        deployment["name"] = f"{leg}-{model}" if dash else leg
        if leg == "ImageEncoder" and not with_image:
            deployment.pop("num_replicas", None)
            deployment["autoscaling_config"] = {"min_replicas": 0, "initial_replicas": 0, "max_replicas": 1}
        kept.append(deployment)
    application["deployments"] = kept
    return config


@contextmanager
def run_service(
    config: dict[str, Any],
    *,
    data: Path,
    private: bool = False,
    graceful: bool = True,
    dashboard: bool = False,
    show_logs: bool = False,
    on_waiting: Callable[[list[str]], None] = lambda _: None,
) -> Iterator[str]:
    """Start Ray and the application, and yield its base URL once every leg is ready.

    Args:
        config: a Serve config, as `load_config` returns it; its `http_options` say where it listens.
        data: becomes `KINORAY_DATA`.
        private: keep Ray's session in a folder of its own, removed at the end, so that services can run side by side.
        graceful: let Serve drain at the end, so that running jobs are given back; otherwise everything is just stopped.
        on_waiting: called with the legs that are still loading.

    Raises:
        StartFailed: Serve reports a failed deployment, or it takes longer than five minutes.
    """
    # Set before Ray is imported: it reads them once, and every process it starts inherits them.
    os.environ.update(
        KINORAY_DATA=str(data.resolve()),
        RAY_AUTH_MODE="disabled",  # everything listens on the loopback interface only
        RAY_USAGE_STATS_ENABLED="0",
        RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
        HF_HUB_DISABLE_TELEMETRY="1",
        PYTHONPATH=os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    )
    data.mkdir(parents=True, exist_ok=True)
    import ray
    from ray import serve

    with ExitStack() as cleanup:
        options: dict[str, Any] = {}
        if private:
            # Short, because Ray puts unix sockets below it and their paths are limited to 107 bytes.
            folder = tempfile.mkdtemp(prefix="kinoray-", dir="/tmp")
            cleanup.callback(shutil.rmtree, folder, ignore_errors=True)
            options["_temp_dir"] = folder
        cleanup.callback(ray.shutdown)
        ray.init(
            address="local",
            num_cpus=max(os.cpu_count() or 1, 2),
            include_dashboard=dashboard,
            dashboard_host="127.0.0.1",
            object_store_memory=512 * 2**20,
            log_to_driver=show_logs,
            logging_level="WARNING",
            _node_ip_address="127.0.0.1",
            **options,
        )
        if graceful:
            cleanup.callback(serve.shutdown)
        _deploy(config)
        http = config["http_options"]
        url = f"http://{http['host']}:{http['port']}"
        _wait_until_ready(url, on_waiting)
        yield url


def _deploy(config: dict[str, Any]) -> None:
    """What `serve run CONFIG` does, on the Ray of this process."""
    from ray.serve._private.api import serve_start
    from ray.serve.schema import ServeDeploySchema

    schema = ServeDeploySchema.model_validate(config)
    client = serve_start(
        proxy_location=schema.proxy_location,
        http_options=schema.http_options.model_dump(),
        global_logging_config=schema.logging_config,
    )
    client.deploy_apps(schema)


def _wait_until_ready(url: str, on_waiting: Callable[[list[str]], None]) -> None:
    from ray import serve
    from ray.serve.schema import ApplicationStatus

    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=10):
                return
        except urllib.error.HTTPError as error:
            on_waiting(_waiting_for(error))
        except OSError:
            on_waiting(["Ray Serve"])
        application = serve.status().applications.get(APPLICATION)
        if application is not None and application.status is ApplicationStatus.DEPLOY_FAILED:
            raise StartFailed(f"the application could not be deployed: {application.message}")
        if time.monotonic() > deadline:
            raise StartFailed(f"the service was not ready within {START_TIMEOUT_S} s")
        time.sleep(0.5)  # each question costs the controller some work, and the legs are loading


def _waiting_for(error: urllib.error.HTTPError) -> list[str]:
    try:
        legs: list[str] = json.loads(error.read())["waiting_for"]
    except (ValueError, KeyError, TypeError):
        return ["Ray Serve"]
    return legs
