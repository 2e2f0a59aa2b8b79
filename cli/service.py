"""A service on this machine: its own Ray, deployed from a config file, stopped with the block that started it."""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
import signal
import socket
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from cli.ray_token import token_file, use_token
from deployments.configuration.names import ALWAYS, APPLICATION, DEPLOYMENTS
from pipelines.catalogue import get_card
from pipelines.errors import KinorayError
from pipelines.paths import ROOT
from pipelines.stages import Stage

START_TIMEOUT_S = 300
"""How long a service may take to answer, and to load its stages where nobody can say how large they are."""
PROXY = "Ray Serve"
"""What a start waits for before the service itself can say it."""
STARTS = 3
STOP_TIMEOUT_S = 15
FREE_PORTS = range(20_000, 32_768)


class StartFailed(KinorayError):
    """The application did not come up; the message holds Serve's reason."""

    code = "start_failed"


def free_port() -> int:
    """A port of the loopback interface that nothing listens on now.

    Not one of those that Ray and, by default, Linux hand out by themselves: another could get it before it is used.
    """
    while True:
        port = random.choice(FREE_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


def default_config() -> Path:
    """The config file for this machine: the one for a GPU where Ray would find one to lend."""
    from ray._private.accelerators import NvidiaGPUAcceleratorManager

    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") == ""
    found = 0 if hidden else NvidiaGPUAcceleratorManager.get_current_node_num_accelerators()
    return ROOT / "configs" / ("gpu.yaml" if found else "local.yaml")


def for_model(config: dict[str, Any], model: str, *, with_image: bool) -> dict[str, Any]:
    """A config's copy that serves one model only, every stage once; without an image its encoder need not start."""
    config = copy.deepcopy(config)
    (application,) = config["applications"]
    application["args"]["models"] = [model]
    deployments = application["deployments"]
    application["deployments"] = [each for each in deployments if each["name"] in ALWAYS]
    for stage in get_card(model).STAGES:
        kind = DEPLOYMENTS[stage]
        # Use the model's own options, or else those of another model's stage of the same kind.
        alike = [each for each in deployments if each["name"].startswith(kind)]
        own = [each for each in alike if each["name"] == f"{kind}-{model}"]
        options = {**(own or alike)[0], "name": f"{kind}-{model}"}
        if stage is Stage.IMAGE_ENCODE and not with_image:
            options.pop("num_replicas", None)
            options["autoscaling_config"] = {"min_replicas": 0, "initial_replicas": 0, "max_replicas": 1}
        application["deployments"].append(options)
    return config


def environment(data: Path) -> dict[str, str]:
    """What every node's Ray is started with, beside what is there. Makes the token that `RAY_AUTH_TOKEN_PATH` names."""
    return {
        "KINORAY_DATA": str(data.resolve()),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_file(data)),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # with Ray's default of 15, every other process on the machine precedes a job
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "deployments.http.proxy_gate:install",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    }


@contextmanager
def run_service(
    config: dict[str, Any],
    *,
    data: Path,
    address: str | None = None,
    private: bool = False,
    graceful: bool = True,
    dashboard: bool = False,
    show_logs: bool = False,
    keep_waiting: bool = False,
    on_waiting: Callable[[list[str]], None] = lambda _: None,
    on_ready: Callable[[str], None] = lambda _: None,
    on_failed: Callable[[str], None] = lambda _: None,
) -> Iterator[str]:
    """Start Ray and the application, and yield its base URL once a model can be served and nothing loads any more.

    Args:
        config: a Serve config, as `load_config` returns it; its `http_options` say where it listens.
        data: becomes `KINORAY_DATA`.
        address: of a Ray cluster that runs already, with `environment(data)`; instead of a Ray of its own.
        private: keep Ray's session in a folder of its own, removed at the end, and the jobs under `data` whatever the
            environment says, so that services can run side by side.
        graceful: let Serve drain at the end, so that running jobs are given back; otherwise everything is just stopped.
        keep_waiting: wait as long as stages load; otherwise, `START_TIMEOUT_S` in all.
        on_waiting: called every half second with the stages that are still loading.
        on_ready: called once with each that has been loading and takes calls now.
        on_failed: called once with each sentence that says why a stage could not start.

    Raises:
        StartFailed: the port is taken, no model can be served, or the service takes too long.
    """
    # Set before Ray starts, because all of Ray's processes inherit them.
    if private:
        os.environ.pop("KINORAY_DATABASE_URL", None)  # its jobs and its videos belong together, under `data`
    os.environ.update(environment(data))
    os.environ.pop("RAY_AUTH_TOKEN", None)  # a cluster's, which would precede the file
    import ray
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    use_token()
    schema = ServeDeploySchema.model_validate(config)
    host, port = schema.http_options.host, schema.http_options.port
    _require_free(host, port)
    with _Signals() as signals, ExitStack() as cleanup:
        options: dict[str, Any] = {}
        if private:
            # Short, because Ray puts unix sockets below it and their paths are limited to 107 bytes.
            folder = tempfile.mkdtemp(prefix="kinoray-", dir="/tmp")
            cleanup.callback(shutil.rmtree, folder, ignore_errors=True)
            options["_temp_dir"] = folder
        cleanup.callback(ray.shutdown)
        cleanup.callback(signals.ignore)
        if address is None:
            options.update(
                num_cpus=max(os.cpu_count() or 1, 2),
                include_dashboard=dashboard,
                dashboard_host="127.0.0.1",
                object_store_memory=512 * 2**20,
            )
        _start_ray(address=address or "local", log_to_driver=show_logs, **options)
        signals.restore()  # Ray installs its own SIGTERM handler
        if graceful:
            cleanup.callback(lambda: _get_global_client().shutdown(timeout_s=STOP_TIMEOUT_S))
            cleanup.callback(signals.ignore)
        _deploy(schema)
        url = base_url(config, host, port)
        _wait_until_ready(url, on_waiting, on_ready, on_failed, keep_waiting)
        yield url


def base_url(config: dict[str, Any], host: str, port: int) -> str:
    """Where the application of a config can be called, without a slash at the end."""
    (application,) = config["applications"]
    prefix = application.get("route_prefix", "/").removesuffix("/")
    return f"http://{f'[{host}]' if ':' in host else host}:{port}{prefix}"


def _start_ray(**options: Any) -> None:
    """`ray.init`. Ray gives its own processes 30 s, which they need more of on a machine that is busy: then once more.

    Raises:
        StartFailed: they were too slow each time.
    """
    import ray

    for _ in range(STARTS):
        try:
            ray.init(logging_level="WARNING", _node_ip_address="127.0.0.1", **options)
            return
        except Exception as error:  # Ray raises a plain Exception on a timeout
            if "timed out" not in str(error).lower():
                raise
            ray.shutdown()
            slow = error
    raise StartFailed(f"Ray did not start on this machine, {STARTS} times: {slow}")


def _require_free(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise StartFailed(
                f"port {port} of {host} is taken ({error.strerror}); choose another in http_options"
            ) from None


class _Signals:
    """Once the clean-up has begun, another Ctrl-C or SIGTERM must not interrupt it and leave processes behind."""

    def __enter__(self) -> Self:
        # Only the main thread may set handlers.
        main = threading.current_thread() is threading.main_thread()
        self._before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM) if main}
        return self

    def ignore(self) -> None:
        for each in self._before:
            signal.signal(each, signal.SIG_IGN)

    def restore(self) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)

    def __exit__(self, *_: object) -> None:
        self.restore()


def _deploy(schema: Any) -> None:
    """What `serve run CONFIG` does, on the Ray of this process."""
    from ray.serve._private.api import serve_start

    client = serve_start(
        proxy_location=schema.proxy_location,
        http_options=schema.http_options.model_dump(),
        global_logging_config=schema.logging_config,
    )
    client.deploy_apps(schema)


def _wait_until_ready(
    url: str,
    on_waiting: Callable[[list[str]], None],
    on_ready: Callable[[str], None],
    on_failed: Callable[[str], None],
    keep_waiting: bool,
) -> None:
    from ray import serve
    from ray.serve.schema import ApplicationStatus

    deadline = time.monotonic() + START_TIMEOUT_S
    told: set[str] = set()
    loading: list[str] = [PROXY]
    while True:
        waiting = [PROXY]
        now = _readiness(url)
        if now is not None:
            waiting = now.waiting_for
            for each in loading:
                if each not in waiting and each not in now.cannot_start:
                    on_ready(each)
            loading = waiting
            if keep_waiting:  # tens of gigabytes may come from a slow disk, but an API that answers goes on answering
                deadline = time.monotonic() + START_TIMEOUT_S
            for sentence in (each for each in now.cannot_start.values() if each not in told):
                told.add(sentence)
                on_failed(sentence)
            if now.status == "ready":
                return
            if now.status == "unavailable":
                raise StartFailed(f"no model can be served: {'; '.join(dict.fromkeys(now.cannot_start.values()))}")
        # While the API answers, it knows better: what Serve has given up may be one model's stage.
        application = serve.status().applications.get(APPLICATION)
        if now is None and application is not None and application.status is ApplicationStatus.DEPLOY_FAILED:
            raise StartFailed(f"the application could not be deployed: {application.message}")
        on_waiting(waiting)
        if time.monotonic() > deadline:
            raise StartFailed(f"not ready within {START_TIMEOUT_S} s; still waiting for {', '.join(waiting)}")
        time.sleep(0.5)  # each poll costs the controller some work while the stages load


@dataclass(frozen=True, slots=True)
class Answer:
    """What GET /readyz says."""

    status: str
    waiting_for: list[str]
    cannot_start: dict[str, str]
    """Why stages cannot start, by stage."""


def _readiness(url: str) -> Answer | None:
    """Ask a service whether it is ready; None while it does not answer."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy cannot reach our loopback
    try:
        try:
            with direct.open(f"{url}/readyz", timeout=10) as response:
                body = response.read()
        except urllib.error.HTTPError as error:
            body = error.read()
        said = json.loads(body)
        return Answer(said["status"], said["waiting_for"], dict(said["cannot_start"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None  # Serve's proxy does not listen yet, or the API is not behind it yet
