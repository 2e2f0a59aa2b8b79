"""A `kinoray` command as a process of its own, and all that it starts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import yaml

from cli.service import free_port
from pipelines.paths import ROOT
from tests.harness.processes import title

START_S, STOP_S = 600, 120


class Command:
    """A running `kinoray` command, and every process it was ever seen to have started."""

    def __init__(self, *args: str, data: Path, **environment: str) -> None:
        own = {"KINORAY_DATA": str(data), "KINORAY_DATABASE_URL": "", "PYTHONPATH": str(ROOT)}
        env = {**os.environ, **own, **environment}
        # A file and not a pipe, which would fill up and block the command while nobody reads it.
        self.output = data.with_suffix(".log")
        with self.output.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cli", *args], cwd=ROOT, env=env, stdout=log, stderr=subprocess.STDOUT
            )
        self.started: set[psutil.Process] = set()

    def look(self) -> list[str]:
        """The titles of the processes below the command now; all are remembered."""
        try:
            below = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        self.started.update(below)
        return [shown for process in below if (shown := title(process))]

    def wait_for(self, condition: Callable[[], bool], seconds: float = START_S) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            self.look()
            assert self.process.poll() is None, self.output.read_text()
            assert time.monotonic() < deadline, f"not within {seconds} s"
            time.sleep(0.2)

    def ended(self, within_s: float) -> str:
        """Wait for the end; returns what was printed."""
        deadline = time.monotonic() + within_s
        while self.process.poll() is None:
            self.look()
            assert time.monotonic() < deadline, f"still running after {within_s} s: {self.output.read_text()}"
            time.sleep(0.2)
        return self.output.read_text()

    def stop(self, with_signal: signal.Signals) -> str:
        self.look()
        self.process.send_signal(with_signal)
        return self.ended(STOP_S)

    def assert_nothing_is_left(self) -> None:
        assert self.started, "it was never seen to start anything"
        _, left = psutil.wait_procs(self.started, timeout=60)  # the kernel reaps the last of them a moment later
        assert [shown for process in left if (shown := title(process))] == []


def own_config(folder: Path, config: dict[str, Any]) -> tuple[Path, str]:
    """The config on a free port, as a file, and its URL."""
    port = config["http_options"]["port"] = free_port()
    path = folder / "serve.yaml"
    path.write_text(yaml.safe_dump(config))
    return path, f"http://127.0.0.1:{port}"


def is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False
