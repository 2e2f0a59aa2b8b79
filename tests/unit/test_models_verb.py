"""`kinoray models`, and the pins that commands keep."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from cli import models, pins
from cli.job_store import job_store_name
from cli.job_store import pins as open_pins
from cli.models import entry, run_models
from cli.pins import move_pins, pinned_card
from jobs.database import sqlite_url
from pipelines.card import CheckpointCard, Component, ModelCard, Source
from pipelines.catalogue import get_card
from pipelines.errors import WeightsUnavailable
from pipelines.weights.located import Missing

ONE, TWO = "1" * 40, "2" * 40
NOWHERE = "postgresql://nobody:secret@127.0.0.1:9/nothing"


class Hub:
    commit = ONE
    gone = False

    def commit_of(self, repo: str, revision: str | None, *, model: str | None = None) -> str:
        if self.gone:
            raise WeightsUnavailable(f"{model}: {repo} {revision} is not there")
        return self.commit


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub()
    monkeypatch.setattr("pipelines.weights.located.commit_of", hub.commit_of)
    monkeypatch.setattr(pins, "newest_commit", hub.commit_of)
    return hub


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KINORAY_DATABASE_URL", sqlite_url(tmp_path / "jobs.sqlite3"))


def on_the_hub() -> CheckpointCard:
    card = get_card("ltx-tiny")
    assert isinstance(card, CheckpointCard)
    text = Source(repo="maker/t5", revision="v1")
    update = {"source": Source(repo="maker/model"), "components": {"text_encoder": text, "tokenizer": text}}
    return card.model_copy(update={**update, "download_gb": 9.5})


def revisions(card: ModelCard) -> tuple[str | None, str | None]:
    assert isinstance(card, CheckpointCard)
    return card.source.revision, card.components["tokenizer"].revision


def test_what_is_fetched_first_is_pinned(hub: Hub, tmp_path: Path) -> None:
    said: list[str] = []
    noted: list[str] = []
    assert revisions(pinned_card(on_the_hub(), said.append, note=noted.append)) == (ONE, ONE)
    hub.commit = TWO
    assert revisions(pinned_card(on_the_hub(), said.append, note=noted.append)) == (ONE, ONE)
    store = f"is pinned to {ONE} in the job store {sqlite_url(tmp_path / 'jobs.sqlite3')}"
    assert noted == [f"ltx-tiny: maker/t5 v1 {store}", f"ltx-tiny: maker/model main {store}"]
    with open_pins() as record:
        assert record.commits() == {
            ("maker/model", "main"): ONE, ("maker/t5", "v1"): ONE,
        }  # fmt: skip
    assert said == []


@pytest.mark.usefixtures("hub")
def test_what_the_cache_has_whole_is_pinned_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def whole_commit(card: ModelCard, repo: str, revision: str | None, components: object) -> str | None:
        assert components is None
        assert card.id == "ltx-tiny"
        return TWO if (repo, revision) == ("maker/model", None) else None

    monkeypatch.setattr("pipelines.weights.located.whole_commit", whole_commit)
    assert revisions(pinned_card(on_the_hub(), lambda _: None)) == (TWO, ONE)


def test_the_job_store_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KINORAY_DATABASE_URL", NOWHERE)
    assert job_store_name() == "postgresql://nobody:***@127.0.0.1:9/nothing"


@pytest.mark.usefixtures("hub")
def test_without_a_job_store_nothing_is_pinned_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KINORAY_DATABASE_URL", NOWHERE)
    said: list[str] = []
    assert pinned_card(on_the_hub(), said.append) == on_the_hub()
    (sentence,) = said
    assert sentence.startswith("ltx-tiny: its commit is not recorded")
    assert "the job store cannot be reached" in sentence
    assert "secret" not in sentence
    assert pinned_card(get_card("svd-tiny"), said.append) == get_card("svd-tiny")
    assert len(said) == 1, "what is here needs no job store"


def test_what_the_hub_says_is_not_taken_for_a_fault_of_the_job_store(hub: Hub) -> None:
    hub.gone = True
    with pytest.raises(WeightsUnavailable, match="ltx-tiny: maker/t5 v1 is not there"):
        pinned_card(on_the_hub(), lambda _: None)


def test_a_pin_moves_and_says_from_where_to_where(hub: Hub) -> None:
    later = "replicas that start from now on load it: run `./kinoray prefetch ltx-tiny` first"
    assert list(move_pins(on_the_hub())) == [
        f"ltx-tiny: maker/t5 v1 was not pinned and is at {ONE}; {later}",
        f"ltx-tiny: maker/model main was not pinned and is at {ONE}; {later}",
    ]
    hub.commit = TWO
    assert list(move_pins(on_the_hub())) == [
        f"ltx-tiny: maker/t5 v1 was at {ONE} and is at {TWO}; {later}",
        f"ltx-tiny: maker/model main was at {ONE} and is at {TWO}; {later}",
    ]
    assert list(move_pins(on_the_hub()))[1] == f"ltx-tiny: maker/model main is still at {TWO}"
    assert revisions(pinned_card(on_the_hub(), lambda _: None)) == (TWO, TWO)


def test_no_pin_moves_where_one_of_them_cannot(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    list(move_pins(on_the_hub()))
    hub.commit = TWO
    asked: list[str] = []

    def commit_of(repo: str, revision: str | None, *, model: str | None = None) -> str:
        asked.append(repo)
        hub.gone = len(asked) == 2
        return Hub.commit_of(hub, repo, revision, model=model)

    monkeypatch.setattr(pins, "newest_commit", commit_of)
    with pytest.raises(WeightsUnavailable):
        list(move_pins(on_the_hub()))
    with open_pins() as record:
        assert {pin.commit for pin in record.all().values()} == {ONE}


def test_a_model_that_names_no_branch_has_nothing_to_move() -> None:
    assert list(move_pins(get_card("ltx-tiny"))) == [
        "ltx-tiny: nothing to update, since its card names no branch or tag of the hub"
    ]


def shown(*cards: ModelCard, as_json: bool = False, update: str | None = None, width: int = 160) -> tuple[str, str]:
    """What is said beside the catalogue, and the catalogue."""
    beside, out = (Console(file=StringIO(), width=width, highlight=False) for _ in range(2))
    with pytest.MonkeyPatch.context() as catalogue:
        by_id = {card.id: card for card in cards}
        catalogue.setattr(models, "load_catalogue", lambda: by_id)
        catalogue.setattr(models, "get_card", by_id.__getitem__)
        run_models(beside, out, as_json=as_json, update=update)
    return tuple(each.file.getvalue() for each in (beside, out))  # type: ignore[attr-defined]


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> set[Component]:
    """The components that are not on this machine."""
    components: set[Component] = set()

    def missing(_: ModelCard, component: Component) -> Missing | None:
        return Missing("maker/model", "none of its files") if component in components else None

    monkeypatch.setattr(models, "missing", missing)
    return components


def test_the_table_says_where_each_model_is_from(hub: Hub, away: set[Component]) -> None:
    assert hub.commit == ONE
    pinned_card(on_the_hub(), lambda _: None)
    away.add("vae")
    beside, table = shown(on_the_hub(), get_card("simulated"))
    assert beside == ""
    lines = [" ".join(line.split()) for line in table.splitlines()]
    assert f"ltx-tiny 9.5 vae maker/model at {ONE}" in lines
    assert f"ltx, 64x64, 20 steps maker/t5 at {ONE}" in lines
    assert "Apache-2.0" in lines
    assert "simulated none; nothing is generated" in lines
    assert "simulated, 704x480, 40 steps" in lines
    away.update(on_the_hub().all_components())
    assert "ltx-tiny 9.5 everything maker/model" in " ".join(shown(on_the_hub())[1].split())
    away.clear()
    assert "ltx-tiny 9.5 nothing maker/model" in " ".join(shown(on_the_hub())[1].split())


@pytest.mark.usefixtures("away")
def test_a_branch_that_is_not_pinned_is_said_to_be() -> None:
    table = " ".join(shown(on_the_hub())[1].split())
    assert "maker/model, not pinned" in table
    assert "models/svd-tiny, not pinned" not in " ".join(shown(get_card("svd-tiny"))[1].split())


def test_json_has_everything(hub: Hub, away: set[Component]) -> None:
    assert hub.commit == ONE
    pinned_card(on_the_hub(), lambda _: None)
    away.add("vae")
    (model,) = json.loads(shown(on_the_hub(), as_json=True)[1])
    assert model["id"] == "ltx-tiny"
    assert (model["family"], model["license"], model["download_gb"]) == ("ltx", "Apache-2.0", 9.5)
    assert (model["size"], model["num_inference_steps"], model["recommended_sizes"]) == ("64x64", 20, [])
    assert model["missing"] == {"vae": "maker/model: none of its files"}
    assert model["source"]["vae"] == {"repo": "maker/model", "commit": ONE}
    assert model["source"]["tokenizer"] == {"repo": "maker/t5", "revision": "v1", "commit": ONE}


@pytest.mark.usefixtures("away")
def test_the_catalogue_is_listed_without_a_job_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KINORAY_DATABASE_URL", NOWHERE)
    beside, table = shown(on_the_hub())
    assert "which commits are pinned is not known: the job store cannot be reached" in " ".join(beside.split())
    assert "maker/model, not pinned" in " ".join(table.split())
    assert shown(get_card("svd-tiny"))[0] == "", "it is not needed for what is here"


def test_the_verb_moves_a_pin(hub: Hub) -> None:
    assert hub.commit == ONE
    beside, table = shown(on_the_hub(), update="ltx-tiny")
    assert f"maker/model main was not pinned and is at {ONE}" in beside
    assert table == ""


def test_what_is_on_this_machine_is_not_missing() -> None:
    here = entry(get_card("svd-tiny"), {})
    assert here.missing == {}
    assert here.source["unet"] == {"folder": "models/svd-tiny"}
    gone = get_card("svd-tiny").model_copy(update={"source": Source(folder=Path("no/such/folder"))})
    assert entry(gone, {}).missing.keys() == here.source.keys()
    assert entry(get_card("simulated"), {}).missing == {}
