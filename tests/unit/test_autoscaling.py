"""How many replicas there should be: of the stages in proportion, of denoisers for the work that waits."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.serve._private.common import DeploymentID
from sqlalchemy.exc import OperationalError

from deployments import autoscaling
from deployments.autoscaling import Backlog, Balance, Demand, replicas_needed
from deployments.configuration.names import deployment_names
from jobs.database import open_database, sqlite_url
from jobs.store import JobStore
from pipelines.card import Source
from pipelines.catalogue import load_catalogue
from pipelines.stages import Stage
from tests.unit.conftest import Jobs

STAGE_S = {
    **dict.fromkeys(Stage, 0.0), Stage.TEXT_ENCODE: 1.0, Stage.DENOISE: 20.0, Stage.DECODE: 4.0, Stage.PUBLISH: 1.0,
}  # fmt: skip


def demand(
    waiting: int = 0, work_s: float = 0.0, stage_s: dict[Stage, float] = STAGE_S, busy: int = 0, **working: int
) -> Demand:
    at = {Stage(stage): count for stage, count in working.items()}
    return Demand(waiting, at, busy, work_s, stage_s)


@pytest.mark.parametrize(
    ("of", "denoisers"),
    [
        (demand(), 0),
        (demand(waiting=1, work_s=25), 1),  # never fewer than one for whatever waits
        (demand(waiting=12, work_s=300), 4),  # 240 s of denoising in 60 s
        (demand(waiting=2, work_s=900), 2),  # a job has one denoiser
        (demand(denoise=5, busy=5, work_s=10), 5),  # who is at work stays
        (demand(waiting=3, text_encode=1, denoise=4, busy=4, work_s=500), 7),
        (
            demand(waiting=98, text_encode=1, denoise=2, busy=1, work_s=100),
            2,
        ),  # one claimed ahead needs no other
        (demand(decode=1, publish=40), 0),  # videos that wait for a bucket
    ],
)
def test_denoisers_follow_the_work(of: Demand, denoisers: int) -> None:
    assert of.denoisers(drain_s=60) == denoisers


def test_the_other_stages_stay_in_the_ratio_of_their_costs() -> None:
    names = deployment_names({"simulated": load_catalogue()["simulated"]})
    needed = replicas_needed({"simulated": demand(waiting=160, work_s=4000)}, names, drain_s=200)
    assert needed == {"TextEncoder-simulated": 1, "Denoiser-simulated": 16, "VideoDecoder-simulated": 4}
    needed = replicas_needed({"simulated": demand(waiting=1, work_s=25)}, names, drain_s=200)
    assert needed == {"TextEncoder-simulated": 1, "Denoiser-simulated": 1, "VideoDecoder-simulated": 1}, "all are warm"
    needed = replicas_needed({"simulated": demand(decode=3)}, names, drain_s=200)
    assert needed == {"TextEncoder-simulated": 0, "Denoiser-simulated": 0, "VideoDecoder-simulated": 1}, "the last ones"
    needed = replicas_needed({"simulated": demand(decode=60)}, names, drain_s=100)
    assert needed["VideoDecoder-simulated"] == 3, "what has gathered there is work too: 60 x 4 s in 100 s"
    assert set(replicas_needed({"simulated": demand()}, names, drain_s=200).values()) == {0}


def test_a_shared_encoder_serves_the_sum() -> None:
    models = ("ltx-video-0.9.5", "ltx-video-0.9.8-2b-distilled")
    names = deployment_names({model: load_catalogue()[model] for model in models})
    slow = {**STAGE_S, Stage.TEXT_ENCODE: 10.0}
    needed = replicas_needed(dict.fromkeys(models, demand(waiting=2, work_s=900, stage_s=slow)), names, drain_s=60)
    assert needed["TextEncoder"] == 3  # 4 denoisers x 10 s / 20 s / 0.8
    assert needed["Denoiser-ltx-video-0.9.5"] == 2


def test_models_with_one_autoencoder_share_what_decodes_with_it() -> None:
    one = load_catalogue()["ltx-video-0.9.5"]
    other = one.model_copy(update={"id": "own", "components": {"transformer": Source(repo="mine/finetuned")}})
    names = deployment_names({one.id: one, other.id: other})
    shared = {"text_encode": "TextEncoder", "image_encode": "ImageEncoder", "decode": "VideoDecoder"}
    assert names["own"] == {**shared, "denoise": "Denoiser-own"}
    assert names[one.id] == {**shared, "denoise": f"Denoiser-{one.id}"}
    apart = one.model_copy(update={"id": "own", "components": {"vae": Source(repo="mine/vae")}})
    assert deployment_names({one.id: one, "own": apart})["own"][Stage.DECODE] == "VideoDecoder-own"


class Controller:
    """What Serve's controller does with a policy."""

    def __init__(self, policy: Balance) -> None:
        self.policy = policy
        names = ("TextEncoder-simulated", "Denoiser-simulated", "VideoDecoder-simulated", "Publisher")
        self.contexts = {
            DeploymentID(name, "kinoray"): SimpleNamespace(target_num_replicas=2, current_num_replicas=0)
            for name in names
        }

    def ask(self) -> dict[str, int]:
        decisions, state = self.policy(self.contexts)
        assert state is None
        return {each.name: replicas for each, replicas in decisions.items()}

    def until(self, reached: Callable[[dict[str, int]], bool]) -> dict[str, int]:
        deadline = time.monotonic() + 60
        while not reached(asked := self.ask()):
            assert time.monotonic() < deadline, asked
            time.sleep(0.02)
        return asked


@pytest.fixture
def controller(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Controller:
    monkeypatch.setenv("KINORAY_DATABASE_URL", sqlite_url(tmp_path / "jobs.sqlite3"))
    monkeypatch.setattr(autoscaling, "LOOK_EVERY_S", 0.0)
    return Controller(Balance(drain_s=10))


def test_the_policy_reads_the_job_store_and_leaves_others_alone(controller: Controller, tmp_path: Path) -> None:
    with open_database(sqlite_url(tmp_path / "jobs.sqlite3")) as database:
        jobs = Jobs(database)
        assert controller.ask() == {}, "nothing is known yet"
        controller.until(lambda asked: asked.get("Denoiser-simulated") == 0)
        for _ in range(3):
            jobs.accept(model="simulated", work={Stage.TEXT_ENCODE: 1.0, Stage.DENOISE: 1.0, Stage.DECODE: 1.0})
        asked = controller.until(lambda asked: asked["Denoiser-simulated"] == 3)
        assert asked == {"TextEncoder-simulated": 1, "Denoiser-simulated": 3, "VideoDecoder-simulated": 1}
        targets = {each.name: context.target_num_replicas for each, context in controller.contexts.items()}
        assert (targets["Denoiser-simulated"], targets["Publisher"]) == (3, 2), "a cold start goes by the target"


@pytest.mark.parametrize("error", [OperationalError("SELECT", None, Exception()), KeyError("a bug")])
def test_what_cannot_be_read_changes_nothing_and_stops_nobody(
    controller: Controller, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception
) -> None:
    with open_database(sqlite_url(tmp_path / "jobs.sqlite3")):
        controller.until(lambda asked: asked.get("Denoiser-simulated") == 0)

        def away(*_: Any) -> Any:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(JobStore, "waiting", away)
            patch.setattr(autoscaling, "STALE_S", 0.1)
            controller.until(lambda asked: asked == {})
        controller.until(lambda asked: asked.get("Denoiser-simulated") == 0)


def test_a_policy_that_could_never_drain_a_queue_is_refused() -> None:
    with pytest.raises(ValueError, match="drain_s must be positive"):
        Balance(drain_s=0)


def test_one_deployment_can_have_the_policy_alone(controller: Controller, tmp_path: Path) -> None:
    denoisers = next(each for each in controller.contexts if each.name == "Denoiser-simulated")
    context = SimpleNamespace(deployment_id=denoisers, **vars(controller.contexts[denoisers]))
    policy = Backlog(drain_s=10)
    with open_database(sqlite_url(tmp_path / "jobs.sqlite3")) as database:
        assert policy(context) == (2, {}), "nothing is known yet"
        for _ in range(3):
            Jobs(database).accept(model="simulated", work={Stage.DENOISE: 1.0})
        deadline = time.monotonic() + 60
        while policy(context) != (3, {}):
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_the_first_to_open_a_sqlite_store_finds_no_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KINORAY_DATABASE_URL", sqlite_url(tmp_path / "jobs.sqlite3"))
    assert set(Balance()._replicas(["simulated"]).values()) == {0}
