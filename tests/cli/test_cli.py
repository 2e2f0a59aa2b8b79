"""The commands a newcomer types, as processes of their own that leave nothing behind."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cli.demo import PROMPT, ask_for
from cli.service import default_config, for_model
from deployments.configuration.serve_config import load_config
from jobs.database import open_database
from jobs.store import JobStore
from pipelines.catalogue import get_card
from pipelines.errors import ConfigError
from pipelines.video import read_frames
from tests.conftest import ServiceClient
from tests.harness.command import START_S, Command, is_ready, own_config
from tests.harness.databases import create_database
from training.detect import detect


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


def test_a_demo_of_an_image_model_has_a_picture_of_its_own(tmp_path: Path) -> None:
    assert ask_for(get_card("ltx-tiny"), None, None) == ({"model": "ltx-tiny", "prompt": PROMPT}, None)
    fields, picture = ask_for(get_card("svd-tiny"), None, None)
    assert fields == {"model": "svd-tiny", "prompt": None}
    assert picture is not None
    assert picture.is_file()
    assert ask_for(get_card("svd-tiny"), None, picture)[1] == picture
    with pytest.raises(ConfigError, match="there is no image"):
        ask_for(get_card("svd-tiny"), None, tmp_path / "none.png")


@pytest.mark.long
def test_an_interrupted_demo_leaves_nothing(start: Callable[..., Command], tmp_path: Path) -> None:
    demo = start("demo", "--out", str(tmp_path / "demo.mp4"))
    demo.wait_for(lambda: any("ServeReplica" in title for title in demo.look()))
    assert demo.stop(signal.SIGINT).rstrip().endswith("stopped")
    assert demo.process.returncode == 130
    demo.assert_nothing_is_left()


@pytest.mark.long
def test_serve_runs_until_it_is_told_to_stop(start: Callable[..., Command], tmp_path: Path, postgres: str) -> None:
    """On PostgreSQL, as a cluster has it; every other test of a service has SQLite."""
    database = create_database(postgres, "service")
    assert "is at" in start("migrate", KINORAY_DATABASE_URL=database).ended(START_S)
    small = for_model(load_config(default_config()), "ltx-tiny", with_image=False)
    config, url = own_config(tmp_path, small)
    serve = start("serve", "--config", str(config), KINORAY_DATABASE_URL=database)
    serve.wait_for(lambda: is_ready(url))
    client = ServiceClient(url)
    video = client.finish(client.create(seed=1)["id"])
    assert client.content(video["id"])[4:8] == b"ftyp"
    client.http.close()
    with open_database(database) as opened:
        assert JobStore(opened).get(video["id"]) is not None
    output = serve.stop(signal.SIGTERM)
    assert (serve.process.returncode, "Stopped." in output) == (0, True), output
    serve.assert_nothing_is_left()


def test_a_wrong_config_is_one_sentence(start: Callable[..., Command], tmp_path: Path) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text(default_config().read_text().replace("threads:", "thread:"))
    checked = start("config", "check", str(path))
    output = checked.ended(START_S)
    assert checked.process.returncode == 1
    assert "args.thread" in output.replace("\n", "")
    assert "Traceback" not in output
