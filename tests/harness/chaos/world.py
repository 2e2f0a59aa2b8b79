"""What is killed: a service of two nodes with its database, in a folder of its own, which can be started again."""

from __future__ import annotations

import copy
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cli.service import environment, for_model, free_port
from deployments.configuration.serve_config import load_config
from jobs.database import Database
from pipelines.paths import ROOT
from tests.harness.processes import below, kill_tree, title, until

MODEL = "ltx-tiny"
DENOISER = f"Denoiser-{MODEL}"
LEASE_S, CHECKPOINT_EVERY_S = 5.0, 1.0
START_S, ANSWER_S = 600, 60
STOP_S = 30
REPLICAS = {"Api": 2, "Conductor": 2, DENOISER: 2}


@dataclass(frozen=True, slots=True)
class Replica:
    """A Serve replica, as the controller knows it."""

    deployment: str
    replica_id: str
    pid: int | None
    state: str
    node_id: str | None

    @property
    def process(self) -> int:
        """Its pid, which it has once it runs."""
        if self.pid is None:
            raise RuntimeError(f"{self.deployment} has no process yet")
        return self.pid


def chaos_config(port: int, database_url: str) -> dict[str, Any]:
    """configs/local.yaml for one model: two of everything that holds jobs, each denoiser on a node of its own.

    A lease of five seconds and a checkpoint every second, so that a round of killing is short. One thread for each
    stage: two denoisers share two cores.
    """
    config = for_model(load_config(ROOT / "configs" / "local.yaml"), MODEL, with_image=False)
    config["http_options"]["port"] = port
    (application,) = config["applications"]
    # Through the config, and not the environment: a private service takes no database from there.
    application["runtime_env"] = {"env_vars": {"KINORAY_DATABASE_URL": database_url}}
    application["args"].update(lease_s=LEASE_S, checkpoint_every_s=CHECKPOINT_EVERY_S)
    application["args"]["threads"].update(denoise=1, decode=1)
    for deployment in application["deployments"]:
        deployment["num_replicas"] = REPLICAS.get(deployment["name"], deployment.get("num_replicas"))
        if deployment["name"].startswith("Denoiser"):
            deployment["max_replicas_per_node"] = 1
        if deployment["num_replicas"] is None:
            del deployment["num_replicas"]
    return config


class World:
    """A running service. Every process of it is below `service` or `node`, which lead sessions of their own."""

    def __init__(self, folder: Path, database_url: str) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.database_url = database_url
        self.database = Database(database_url)
        self.database.migrate()
        self.port = free_port()
        self.config = chaos_config(self.port, database_url)
        self.url = f"http://127.0.0.1:{self.port}"
        self.starts = 0
        self._service: subprocess.Popen[str] | None = None
        self._node: subprocess.Popen[bytes] | None = None
        self._ready: dict[str, str] = {}

    @property
    def logs(self) -> list[Path]:
        """The folders of Serve's logs, of this start and of those before."""
        kept = [self.folder / f"logs-{start}" for start in range(1, self.starts)]
        return [*kept, Path(self._ready["logs"]) / "serve"] if self._ready else kept

    @property
    def controller_pid(self) -> int:
        """The process of Serve's controller."""
        assert self._service is not None
        (found,) = [each.pid for each in below(self._service.pid) if "ServeController" in title(each)]
        return found

    def start(self) -> float:
        """Start the service and its second node; returns the seconds until every replica runs."""
        began = time.monotonic()
        self._start_service()
        self._ready = self._read(START_S)
        self.start_node()
        self.wait_until_complete()
        return time.monotonic() - began

    def start_node(self) -> None:
        """Let a second node join, as on another machine."""
        options = {
            "address": self._ready["address"], "temp-dir": self._ready["temp_dir"], "node-ip-address": "127.0.0.1",
            "num-cpus": 1, "object-store-memory": 200 * 2**20, "include-log-monitor": "false",
        }  # fmt: skip
        words = [f"--{name}={value}" for name, value in options.items()]
        with (self.folder / f"node-{self.starts}.log").open("a") as log:
            self._node = subprocess.Popen(
                [sys.executable, "-m", "ray.scripts.scripts", "start", *words, "--block"],
                cwd=ROOT, env=self._environment(), start_new_session=True,
                stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def kill_node(self) -> int:
        """`kill -9` for the second node's raylet, its replicas and whatever else is below; returns how many."""
        assert self._node is not None
        killed = kill_tree(self._node.pid)
        self._node.wait()
        return killed

    def kill_service(self) -> int:
        """`kill -9` for every process of the service, on both nodes; returns how many. What it stored stays."""
        both: tuple[subprocess.Popen[Any] | None, ...] = (self._service, self._node)
        processes = [process for process in both if process is not None]
        killed = kill_tree(*(process.pid for process in processes))
        for process in processes:
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
        self._service = self._node = None
        self._keep_logs()
        return killed

    def replicas(self) -> list[Replica]:
        """Every replica there is now."""
        return [Replica(**each) for each in self._ask({})]

    def deploy(self, config: dict[str, Any]) -> None:
        """What `serve deploy` does."""
        self.config = copy.deepcopy(config)
        self._ask({"deploy": self.config})

    def running(self, deployment: str) -> list[Replica]:
        return [each for each in self.replicas() if each.deployment == deployment and each.state == "RUNNING"]

    def on_second_node(self) -> list[Replica]:
        """The replicas whose processes are below the second node."""
        assert self._node is not None
        pids = {each.pid for each in below(self._node.pid)}
        return [each for each in self.replicas() if each.pid in pids]

    def wait_until_complete(self, but: frozenset[str] = frozenset()) -> None:
        """Wait until as many replicas run as the config wants, none of them one of `but`, and none is stopping."""
        (application,) = self.config["applications"]
        wanted = {each["name"]: each["num_replicas"] for each in application["deployments"] if "num_replicas" in each}

        def complete() -> bool:
            if self._node is not None and self._node.poll() is not None:
                self.start_node()  # it gave up: Ray gives it 30 s, which a busy machine may not keep
            found = dict.fromkeys(wanted, 0)
            for each in self.replicas():
                if each.state != "RUNNING" or each.replica_id in but:
                    return False
                if each.deployment in found:
                    found[each.deployment] += 1
            return found == wanted

        until(complete, "every replica runs", START_S, every_s=0.3)

    def close(self) -> None:
        if self._service is not None and not self._ready:
            self._service.send_signal(signal.SIGINT)  # only a service that is still starting knows Ray's folder
            try:
                self._service.wait(STOP_S)
            except subprocess.TimeoutExpired:
                pass  # then it is killed, and leaves that folder
        self.kill_service()
        self.database.close()

    def _start_service(self) -> None:
        self.starts += 1
        path = self.folder / "serve.yaml"
        path.write_text(yaml.safe_dump(self.config))
        with (self.folder / f"service-{self.starts}.log").open("w") as log:
            self._service = subprocess.Popen(
                [sys.executable, "-m", "tests.harness.chaos.serve", str(path), str(self.data)],
                cwd=ROOT, env=self._environment(), start_new_session=True, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            )  # fmt: skip

    def _environment(self) -> dict[str, str]:
        return {**os.environ, **environment(self.data)}

    def _ask(self, question: dict[str, Any]) -> Any:
        assert self._service is not None
        assert self._service.stdin is not None
        self._service.stdin.write(json.dumps(question) + "\n")
        self._service.stdin.flush()
        return self._read(ANSWER_S)

    def _read(self, seconds: float) -> Any:
        assert self._service is not None
        assert self._service.stdout is not None
        readable, _, _ = select.select([self._service.stdout], [], [], seconds)
        line = self._service.stdout.readline() if readable else ""
        if not line:
            log = self.folder / f"service-{self.starts}.log"
            raise RuntimeError(f"the service gave no answer within {seconds:.0f} s: {log.read_text()[-2000:]}")
        return json.loads(line)

    def _keep_logs(self) -> None:
        if self._ready:
            if (logs := Path(self._ready["logs"]) / "serve").is_dir():  # which a service that stopped has removed
                shutil.copytree(logs, self.folder / f"logs-{self.starts}")
            shutil.rmtree(self._ready["temp_dir"], ignore_errors=True)
            self._ready = {}


@contextmanager
def run_world(database_url: str | None = None) -> Iterator[World]:
    """A world that has started, on SQLite unless a database is given. Its folder is kept when something goes wrong."""
    folder = Path(tempfile.mkdtemp(prefix="kinoray-chaos-"))
    world = World(folder, database_url or f"sqlite:///{folder}/data/jobs.sqlite3")
    try:
        world.start()
        yield world
    except BaseException:
        print(f"what is left of it is in {folder}", file=sys.stderr)
        raise
    finally:
        world.close()
    shutil.rmtree(folder)
