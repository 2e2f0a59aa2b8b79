"""A model whose checkpoint is broken, beside one that works: in a service of its own, started as people start it."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
import yaml
from sqlalchemy import text

from jobs.database import Database, sqlite_url
from jobs.stage_failures import GIVEN_UP_AT
from pipelines.paths import ROOT
from tests.conftest import ServiceClient
from tests.harness.command import Command, own_config
from tests.harness.data_urls import EXAMPLE as PICTURE
from tests.harness.processes import title

PATIENCE_S = 300
SOON_S = 20
"""How long the job of a model that cannot start may take to say so. It does nothing but find that out."""


class OwnService:
    """`kinoray serve` with two models: one of simulated stages, and `mine`, a checkpoint that a test may break."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkpoint = folder / "mine"
        shutil.copytree(ROOT / "models/svd-tiny", self.checkpoint)
        cards = folder / "cards"
        cards.mkdir()
        own = yaml.safe_load((ROOT / "configs/models/svd-tiny.yaml").read_text())
        card = {**own, "id": "mine", "source": {"folder": str(self.checkpoint)}}
        (cards / "mine.yaml").write_text(yaml.safe_dump(card))
        self.environment = {"KINORAY_MODELS": str(cards)}
        self.weights = self.checkpoint / "unet" / "diffusion_pytorch_model.safetensors"
        self.whole = self.weights.read_bytes()

    def break_it(self) -> None:
        """As an interrupted copy leaves it."""
        self.weights.write_bytes(self.whole[: len(self.whole) // 2])

    def mend_it(self) -> None:
        self.weights.write_bytes(self.whole)

    @contextmanager
    def run(self, *at_zero: str) -> Iterator[ServiceClient]:
        """
        Args:
            at_zero: deployments that have no replica before they are called.
        """
        path, url = own_config(self.folder, config(*at_zero))
        self.command = Command("serve", "--config", str(path), data=self.folder / "data", **self.environment)
        try:
            client = ServiceClient(url)
            yield client
            client.http.close()
        finally:
            self.command.stop(signal.SIGTERM)

    def replica(self, deployment: str) -> psutil.Process | None:
        below = psutil.Process(self.command.process.pid).children(recursive=True)
        return next((each for each in below if f"ServeReplica:kinoray:{deployment}" in title(each)), None)

    def failures(self) -> int:
        """The failed starts in a row that the job store counts."""
        with Database(sqlite_url(self.folder / "data" / "jobs.sqlite3")) as database, database.read() as connection:
            found = connection.execute(text("SELECT failures FROM stage_failures")).scalar_one_or_none()
        return found or 0


def config(*at_zero: str) -> dict[str, Any]:
    one: dict[str, Any] = {"num_replicas": 1}
    none = {"autoscaling_config": {"min_replicas": 0, "initial_replicas": 0, "max_replicas": 1}}
    names = ("TextEncoder-simulated", "Denoiser-simulated", "VideoDecoder-simulated", "ImageEncoder-mine",
             "Denoiser-mine", "VideoDecoder-mine", "Api", "Conductor", "Publisher")  # fmt: skip
    return {
        "proxy_location": "HeadOnly",
        "http_options": {"host": "127.0.0.1", "port": 8000},
        "logging_config": {"enable_access_log": False},
        "applications": [
            {
                "name": "kinoray",
                "route_prefix": "/",
                "import_path": "serve_app:build_app",
                "args": {"models": ["simulated", "mine"]},
                "deployments": [
                    {"name": name, "ray_actor_options": {"num_cpus": 0.05}, **(none if name in at_zero else one)}
                    for name in names
                ],
            }
        ],
    }


def readyz(client: ServiceClient) -> tuple[int, dict[str, Any]]:
    """What GET /readyz says; status 0 while nothing answers."""
    try:
        answer = client.http.get("/readyz", timeout=10)
        return answer.status_code, answer.json()
    except (httpx2.HTTPError, ValueError):
        return 0, {}


def wait_for(own: OwnService, reached: Callable[[int, dict[str, Any]], bool], client: ServiceClient) -> list[Any]:
    """Ask until it is so; returns every answer."""
    seen: list[Any] = []

    def now() -> bool:
        seen.append(readyz(client))
        return reached(*seen[-1])

    own.command.wait_for(now, PATIENCE_S)
    return seen


def make(client: ServiceClient) -> dict[str, Any]:
    """A video of `mine`, as it ended."""
    created = client.http.post("/v1/videos", json={"model": "mine", "input_reference": PICTURE, "seed": 1}).json()
    began = time.monotonic()
    video = client.until(created["id"], lambda now: now["status"] in ("completed", "failed"))[-1]
    if video["status"] == "failed":
        assert time.monotonic() - began < SOON_S
    return video


def of_the_other(client: ServiceClient) -> None:
    """A video of the model that works."""
    client.finish(client.create(model="simulated", num_inference_steps=1)["id"])


@pytest.fixture
def own(tmp_path: Path) -> OwnService:
    return OwnService(tmp_path)


@pytest.mark.long
def test_a_broken_checkpoint_is_a_sentence_and_the_other_model_goes_on(own: OwnService) -> None:
    own.break_it()
    with own.run("VideoDecoder-mine") as client:  # which no job reaches
        seen = wait_for(own, lambda status, _: status == 200, client)
        body = seen[-1][1]
        assert (body["status"], body["waiting_for"]) == ("ready", [])
        [(deployment, sentence)] = body["cannot_start"].items()
        assert deployment == "Denoiser-mine"
        assert own.weights.name in sentence
        assert any(status == 503 and answer["cannot_start"] == body["cannot_start"] for status, answer in seen), (
            "the first failure is told while the stage is tried again"
        )
        lines = own.command.output.read_text().splitlines()
        assert lines.count(f"cannot start: {sentence}") == 1
        logged = [line for line in lines if line.endswith(f"stage.failed sentence={sentence}")]
        assert logged, "for whoever looks later"
        assert all(" ERROR " in line and "kinoray_Denoiser-mine" in line for line in logged)
        assert own.failures() == GIVEN_UP_AT
        models = {each["id"]: each for each in client.http.get("/v1/models").json()["data"]}
        assert (models["mine"]["available"], models["mine"]["unavailable_reason"]) == (False, sentence)
        assert models["mine"]["source"]["unet"] == {"folder": str(own.checkpoint)}
        assert (models["simulated"]["available"], models["simulated"]["source"]) == (True, {})
        for _ in range(2):
            video = make(client)
            assert video["error"] == {"code": "stage_unavailable", "message": sentence}
            assert video["attempts"] == 1, "it is not tried again"
        of_the_other(client)
        assert own.failures() == GIVEN_UP_AT, "nothing restarts any more"


@pytest.mark.long
def test_a_healthy_stage_dies_and_finds_its_file_unreadable(own: OwnService) -> None:
    with own.run() as client:
        wait_for(own, lambda status, _: status == 200, client)
        made = make(client)
        assert made["status"] == "completed", made["error"]
        assert set(made["result_metadata"]["revisions"]) == {
            "feature_extractor",
            "image_encoder",
            "scheduler",
            "unet",
            "vae",
        }
        assert f"unet={made['result_metadata']['revisions']['unet']}" in made["model_revision"]
        own.break_it()
        first = own.replica("Denoiser-mine")
        assert first is not None
        first.kill()
        seen = wait_for(own, lambda status, body: status == 200 and bool(body["cannot_start"]), client)
        [(deployment, sentence)] = seen[-1][1]["cannot_start"].items()
        assert (deployment, own.weights.name in sentence) == ("Denoiser-mine", True)
        assert make(client)["error"] == {"code": "stage_unavailable", "message": sentence}
        of_the_other(client)
        own.mend_it()
        refusing = own.replica("Denoiser-mine")
        assert refusing is not None
        refusing.kill()
        wait_for(own, lambda status, body: status == 200 and not body["cannot_start"], client)
        again = make(client)
        assert again["status"] == "completed", again["error"]
        assert client.content(again["id"]) == client.content(made["id"])
        assert own.failures() == 0


@pytest.mark.long
def test_where_no_model_can_be_served_serve_ends_with_the_sentences(own: OwnService) -> None:
    """A file that is there but cannot be opened: `prefetch` looks at headers, and its folder is whole."""
    (own.checkpoint / "scheduler" / "scheduler_config.json").write_text("{")
    only = config()
    only["applications"][0]["args"]["models"] = ["mine"]
    only["applications"][0]["deployments"] = [
        each for each in only["applications"][0]["deployments"] if "simulated" not in each["name"]
    ]
    path, _ = own_config(own.folder, only)
    own.command = Command("serve", "--config", str(path), data=own.folder / "data", **own.environment)
    output = own.command.ended(PATIENCE_S)
    assert own.command.process.returncode == 1
    assert "error: no model can be served: " in output
    assert "scheduler" in output.split("error: no model can be served: ")[1]
    assert "Traceback" not in output.split("error: no model can be served: ")[1]
    own.command.assert_nothing_is_left()
