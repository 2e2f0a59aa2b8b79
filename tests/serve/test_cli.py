"""The commands a newcomer types, as processes of their own that leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from benchmarks.databases import create_database
from deployments.config import load_config
from deployments.service import default_config, for_model, free_port
from jobs.store import JobStore
from pipelines.card import ROOT
from pipelines.video import read_frames
from tests.conftest import ServiceClient
from training.detect import detect

START_S, STOP_S = 240, 30


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
        return [title for process in below if (title := _title(process))]

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
        _, left = psutil.wait_procs(self.started, timeout=10)  # the kernel reaps the last of them a moment later
        assert [title for process in left if (title := _title(process))] == []


def _title(process: psutil.Process) -> str:
    """A process's command line; empty when it has ended."""
    try:
        return "" if process.status() == psutil.STATUS_ZOMBIE else " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Command]]:
    commands: list[Command] = []

    def run(*args: str, **environment: str) -> Command:
        commands.append(Command(*args, data=tmp_path / "data", **environment))
        return commands[-1]

    yield run
    for command in commands:
        if command.process.poll() is None:
            command.process.kill()
        command.process.wait()


def test_demo_makes_the_video_that_was_asked_for(start: Callable[..., Command], tmp_path: Path) -> None:
    out = tmp_path / "out" / "demo.mp4"
    demo = start("demo", "--prompt", "a blue square moves up on a white background", "--seed", "1", "--out", str(out))
    output = demo.ended(START_S)
    assert demo.process.returncode == 0, output
    seen = detect(read_frames(out))
    assert (seen.color, seen.motion, seen.background) == ("blue", "up", "white")
    assert out.with_suffix(".png").stat().st_size > 0
    assert "seed 1" in output
    demo.assert_nothing_is_left()


def test_demo_of_an_image_model_has_a_picture_of_its_own(start: Callable[..., Command], tmp_path: Path) -> None:
    out = tmp_path / "demo.mp4"
    demo = start("demo", "--model", "svd-tiny", "--out", str(out))
    output = demo.ended(START_S)
    assert demo.process.returncode == 0, output
    assert detect(read_frames(out)).motion == "right"
    demo.assert_nothing_is_left()


def test_an_interrupted_demo_leaves_nothing(start: Callable[..., Command], tmp_path: Path) -> None:
    demo = start("demo", "--out", str(tmp_path / "demo.mp4"))
    demo.wait_for(lambda: any("ServeReplica" in title for title in demo.look()))
    assert demo.stop(signal.SIGINT).rstrip().endswith("stopped")
    assert demo.process.returncode == 130
    demo.assert_nothing_is_left()


def test_serve_runs_until_it_is_told_to_stop(start: Callable[..., Command], tmp_path: Path) -> None:
    config, url = own_config(tmp_path, yaml.safe_load(default_config().read_text()))
    serve = start("serve", "--config", str(config))
    serve.wait_for(lambda: is_ready(url))
    started = time.monotonic()
    output = serve.stop(signal.SIGTERM)
    assert time.monotonic() - started < STOP_S
    assert (serve.process.returncode, "Stopped." in output) == (0, True), output
    serve.assert_nothing_is_left()


def test_a_service_on_postgresql_makes_videos(start: Callable[..., Command], tmp_path: Path, postgres: str) -> None:
    database = create_database(postgres, "service")
    assert "is at" in start("migrate", KINORAY_DATABASE_URL=database).ended(60)
    small = for_model(load_config(default_config()), "ltx-tiny", with_image=False)
    config, url = own_config(tmp_path, small)
    serve = start("serve", "--config", str(config), KINORAY_DATABASE_URL=database)
    serve.wait_for(lambda: is_ready(url))
    client = ServiceClient(url)
    video = client.finish(client.create(seed=1)["id"])
    assert client.content(video["id"])[4:8] == b"ftyp"
    client.http.close()
    with closing(JobStore(database)) as store:
        assert store.get(video["id"]) is not None
    serve.stop(signal.SIGTERM)
    serve.assert_nothing_is_left()


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


def test_a_wrong_config_is_one_sentence(start: Callable[..., Command], tmp_path: Path) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text(default_config().read_text().replace("threads:", "thread:"))
    checked = start("check-config", str(path))
    output = checked.ended(60)
    assert checked.process.returncode == 1
    assert "args.thread" in output.replace("\n", "")
    assert "Traceback" not in output
