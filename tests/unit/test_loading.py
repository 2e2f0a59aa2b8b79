"""How a replica loads its stage: the pinned weights, and what it says of them. Without Ray."""

from __future__ import annotations

import gc
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from sqlalchemy.exc import OperationalError
from torch import Tensor

from deployments import metrics
from deployments.configuration.settings import Settings
from deployments.denoiser import LoadedDenoiser
from deployments.stages import loading
from deployments.stages.loading import LoadedWeights, load, pinned, revisions_of
from deployments.stages.messages import DenoiseRequest
from jobs.database import Database, sqlite_url
from jobs.pins import Pins
from jobs.stored import ResultMetadata
from pipelines.card import CheckpointCard, ModelCard, Source
from pipelines.catalogue import get_card
from pipelines.devices import require_cuda
from pipelines.errors import StageUnavailable, WeightsUnavailable
from pipelines.protocols import Resources
from pipelines.simulated.placement import Nowhere
from pipelines.stages import Stage
from tests.unit.conftest import Quiet

ONE, TWO = "1" * 40, "2" * 40


class Hub:
    """A repository whose main branch moves."""

    def __init__(self) -> None:
        self.commit = ONE
        self.asked: list[tuple[str, str | None]] = []

    def commit_of(self, repo: str, revision: str | None, *, model: str | None = None) -> str:
        assert model == "ltx-tiny", "an error's sentence begins with the card"
        self.asked.append((repo, revision))
        return self.commit


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub()
    monkeypatch.setattr("pipelines.weights.located.commit_of", hub.commit_of)
    return hub


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A SQLite store that nobody has opened yet."""
    url = sqlite_url(tmp_path / "new" / "jobs.sqlite3")
    monkeypatch.setattr(loading, "database_url", lambda: url)
    return url


def on_the_hub() -> CheckpointCard:
    card = get_card("ltx-tiny")
    assert isinstance(card, CheckpointCard)
    text = Source(repo="maker/t5")
    return card.model_copy(
        update={"source": Source(repo="maker/model"), "components": {"text_encoder": text, "tokenizer": text}}
    )


def revision(card: ModelCard) -> str | None:
    assert isinstance(card, CheckpointCard)
    return card.source.revision


def test_every_replica_loads_the_commit_that_the_first_one_found(hub: Hub, store: str) -> None:
    assert revision(pinned(on_the_hub(), Stage.DENOISE)) == ONE
    hub.commit = TWO
    assert revision(pinned(on_the_hub(), Stage.DECODE)) == ONE
    assert hub.asked == [("maker/model", None)], "and not for the text encoder, which neither of them loads"
    with Database(store) as database:
        assert Pins(database).move("maker/model", "main", TWO) == ONE
    assert revision(pinned(on_the_hub(), Stage.DENOISE)) == TWO


@pytest.mark.usefixtures("store")
def test_what_the_cache_has_whole_is_pinned_and_the_hub_not_asked(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def whole_commit(card: ModelCard, repo: str, revision: str | None, components: object) -> str | None:
        assert (card.id, repo, revision, components) == ("ltx-tiny", "maker/model", None, card.STAGES[Stage.DENOISE])
        return TWO

    monkeypatch.setattr("pipelines.weights.located.whole_commit", whole_commit)
    assert revision(pinned(on_the_hub(), Stage.DENOISE)) == TWO
    assert hub.asked == []


def test_what_is_not_on_the_hub_needs_no_job_store(monkeypatch: pytest.MonkeyPatch) -> None:
    def never() -> str:
        raise AssertionError("no job store is needed")

    monkeypatch.setattr(loading, "database_url", never)
    for model in ("ltx-tiny", "svd-tiny", "simulated"):
        assert pinned(get_card(model), Stage.DENOISE) == get_card(model)


@pytest.mark.usefixtures("hub", "store")
def test_a_job_store_that_is_away_for_a_moment_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    left = [OperationalError("", None, OSError("away")), OperationalError("", None, OSError("away"))]

    def open_or_fail(url: str) -> Database:
        if left:
            raise left.pop()
        return Database(url)

    monkeypatch.setattr(loading, "Database", open_or_fail)
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: None)
    assert revision(pinned(on_the_hub(), Stage.DENOISE)) == ONE
    assert left == []


@pytest.mark.usefixtures("store")
def test_a_job_store_that_stays_away_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(url: str) -> Database:
        raise OperationalError(url, None, OSError("away"))

    monkeypatch.setattr(loading, "Database", fail)
    monkeypatch.setattr(loading, "PATIENCE_S", 0.0)
    with pytest.raises(OperationalError):
        pinned(on_the_hub(), Stage.DENOISE)


@dataclass
class Stub:
    """A stage that is loaded from nothing."""

    card: ModelCard
    resources: Resources
    placement: Nowhere = field(default_factory=Nowhere)
    warm: bool = False

    def warm_up(self) -> None:
        self.warm = True


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "get_gpu_ids", lambda: [0])
    monkeypatch.setattr(metrics, "model_load_seconds", Quiet)


@pytest.mark.usefixtures("no_ray", "store")
def test_a_stage_is_loaded_from_the_pinned_card_and_warm(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.weights.revision.revision_of", lambda card, part: f"{part} {card.source.revision}")
    settings = Settings.model_validate({"threads": {"decode": 3}, "fake_gpus": True})
    loaded: LoadedWeights[Any] = load(Stage.DECODE, lambda _: Stub, on_the_hub(), settings)
    assert loaded.stage.warm
    assert loaded.stage.resources == Resources(gpu=True, threads=3)
    assert loaded.stage.card == loaded.card
    assert (revision(loaded.card), hub.asked) == (ONE, [("maker/model", None)])
    assert loaded.revisions == {"vae": f"vae {ONE}"}
    assert loaded.result_metadata() == {"revisions": loaded.revisions}


@pytest.mark.usefixtures("no_ray")
def test_a_family_without_checkpoints_has_no_revisions() -> None:
    loaded: LoadedWeights[Any] = load(Stage.DENOISE, lambda _: Stub, get_card("simulated"), Settings())
    assert (loaded.revisions, loaded.result_metadata()) == ({}, {})


def never(*_: object) -> Stub:
    raise AssertionError("no weights are to be read")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a PyTorch without a GPU")
@pytest.mark.usefixtures("no_ray", "store")
def test_a_gpu_that_cuda_cannot_use_stops_the_replica_before_anything_is_asked_or_read(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    monkeypatch.setattr(ray, "get_gpu_ids", lambda: [2, 3])
    with pytest.raises(StageUnavailable) as refusal:
        load(Stage.DECODE, lambda _: never, on_the_hub(), Settings())
    for said in ("GPU 2, 3", torch.__version__, "CUDA_VISIBLE_DEVICES=2,3", "num_gpus", "fake_gpus"):
        assert said in refusal.value.message
    assert hub.asked == []
    assert gc.isenabled()


@pytest.mark.usefixtures("no_ray", "store", "hub")
def test_a_replica_that_was_lent_no_gpu_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on a machine whose GPUs others have."""
    monkeypatch.setattr(ray, "get_gpu_ids", list)
    monkeypatch.setattr("pipelines.weights.revision.revision_of", lambda _, part: part)
    monkeypatch.setattr("pipelines.devices.require_cuda", never)
    loaded: LoadedWeights[Any] = load(Stage.DECODE, lambda _: Stub, on_the_hub(), Settings())
    assert loaded.stage.resources.gpu is False


def test_why_cuda_cannot_use_a_gpu_is_what_pytorch_says(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_old() -> bool:
        warnings.warn("CUDA initialization: The NVIDIA driver on your system is too old\nUpdate it", stacklevel=1)
        return False

    def refused(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nCompile with")

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    for available, said in (
        (too_old, ": CUDA initialization: The NVIDIA driver on your system is too old (PyTorch"),
        (lambda: False, ": CUDA finds no GPU (PyTorch"),
        (lambda: True, ": CUDA error: no kernel image is available for execution on the device (PyTorch"),
    ):
        monkeypatch.setattr(torch.cuda, "is_available", available)
        monkeypatch.setattr(torch, "zeros", refused)
        with pytest.raises(StageUnavailable) as refusal:
            require_cuda([0])
        assert said in refusal.value.message
        assert "CUDA 13.0" in refusal.value.message
    monkeypatch.setattr(torch, "zeros", lambda *_, **__: Tensor())
    require_cuda([0])


@pytest.mark.usefixtures("no_ray")
def test_garbage_is_collected_again_after_a_failure() -> None:
    """A replica that refuses goes on in this process."""

    def broken(card: ModelCard, resources: Resources) -> Stub:  # noqa: ARG001
        assert not gc.isenabled(), "collecting costs a tenth of the start-up time"
        raise WeightsUnavailable("m: broken")

    with pytest.raises(WeightsUnavailable):
        load(Stage.DENOISE, lambda _: broken, get_card("simulated"), Settings())
    assert gc.isenabled()


def test_each_component_of_a_stage_has_its_revision() -> None:
    card = get_card("ltx-tiny")
    denoise, text = revisions_of(card, Stage.DENOISE), revisions_of(card, Stage.TEXT_ENCODE)
    assert denoise.keys() == {"transformer", "scheduler"}
    assert text.keys() == {"text_encoder", "tokenizer"}
    every = [*denoise.values(), *text.values()]
    assert all(each.startswith("sha256:") for each in every)
    assert len(set(every)) == 4


def request(**revisions: str) -> DenoiseRequest:
    parameters = get_card("ltx-tiny").default_parameters()
    return DenoiseRequest("j", "m", "denoise", parameters, frozenset(), "x", "t", "d1", None, revisions)


def test_finished_latents_keep_what_all_stages_before_them_were_loaded_from() -> None:
    stub: Any = Stub(get_card("ltx-tiny"), Resources(gpu=False))
    with_weights = LoadedDenoiser(LoadedWeights(stub, stub.card, {"transformer": TWO}), "r", "s")
    made = ResultMetadata(**with_weights.result_metadata(request(text_encoder=ONE)))
    assert made.revisions == {"text_encoder": ONE, "transformer": TWO}
    assert ResultMetadata().updated(made).model_revision == f"text_encoder={ONE},transformer={TWO}"
    without = LoadedDenoiser(LoadedWeights(stub, stub.card, {}), "toy-1", "s")
    assert without.result_metadata(request()) == {"model_revision": "toy-1"}
