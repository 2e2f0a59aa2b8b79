"""What `kinoray config check` and `kinoray models` take to be on a machine, without the hub."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path

import pytest
from huggingface_hub import constants
from rich.console import Console

from cli import checking
from cli.checking import check_config_file
from cli.job_store import pins
from cli.models import entry
from cli.pins import recorded_commits
from jobs.database import sqlite_url
from pipelines.card import CheckpointCard
from pipelines.errors import ConfigError, WeightsUnavailable
from pipelines.weights.check import is_here, problems
from pipelines.weights.located import located
from pipelines.weights.pin import pin_known
from pipelines.weights.prefetch import prefetch
from tests.harness.elsewhere import TINY, card
from tests.harness.hub import Hub, own_hub

REPO, LATER = "maker/tiny", "maker/later"
NOWHERE = "postgresql://nobody:secret@127.0.0.1:9/nothing"


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with the demo model, an empty cache and an empty job store."""
    monkeypatch.setenv("KINORAY_DATABASE_URL", sqlite_url(tmp_path / "jobs.sqlite3"))
    with own_hub(tmp_path / "home", monkeypatch) as running:
        running.push_folder(REPO, TINY)
        yield running


def record(hub: Hub) -> str:
    """Pin what the card names, as a service has that has loaded it; returns the commit."""
    commit = hub.repositories[REPO].refs["main"]
    with pins() as pinned:
        pinned.pinned(REPO, None, lambda: commit)
    return commit


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> Callable[[CheckpointCard], str]:
    """What `kinoray config check` says of a card."""

    def check(model: CheckpointCard) -> str:
        out = Console(file=StringIO(), width=1000, highlight=False)
        monkeypatch.setattr(checking, "load_config", lambda path: path)
        monkeypatch.setattr(checking, "served_cards", lambda _: [model])
        check_config_file(out, Path("serve.yaml"))
        said: str = out.file.getvalue()  # type: ignore[attr-defined]
        return said

    return check


def test_a_local_file_whose_configuration_is_on_the_hub_is_not_fetched_for(running: Hub, tmp_path: Path) -> None:
    file = tmp_path / "ltxv.safetensors"
    there = card(
        {"file": str(file), "config": REPO}, {"text_encoder": {"folder": str(TINY)}, "tokenizer": {"folder": "no"}}
    )
    assert not is_here(there, "vae")
    file.touch()
    assert [is_here(there, each) for each in ("vae", "scheduler", "text_encoder", "tokenizer")] == [
        False, False, True, False,
    ]  # fmt: skip
    assert list(problems(there)) == []
    assert running.requests == []
    located(there, "vae")
    running.requests.clear()
    assert is_here(there, "vae")
    assert not is_here(there, "scheduler")
    (problem,) = problems(there)
    assert str(file) in problem, "it is empty"
    assert running.requests == []


def test_a_local_path_that_is_not_whole_is_here_and_wrong(tmp_path: Path) -> None:
    folder = card({"folder": str(tmp_path)})
    assert is_here(folder, "vae")
    assert any(f"{tmp_path} has no folder vae" in each for each in problems(folder))
    file = tmp_path / "ltxv.safetensors"
    file.touch()
    without = card({"file": str(file), "config": str(tmp_path / "away")}, {"text_encoder": {"folder": str(TINY)}})
    assert is_here(without, "vae")
    assert any(f"there is no folder {tmp_path}/away" in each for each in problems(without))


def test_what_a_cached_commit_lacks_is_not_asked_for(running: Hub) -> None:
    there = card({"repo": REPO})
    located(there, "vae")
    (path,) = located(there, "vae").weights
    path.unlink()
    lacking = card({"repo": LATER, "revision": running.push(LATER, {"vae/config.json": b"{}"})})
    with pytest.raises(WeightsUnavailable):
        located(lacking, "vae")
    running.requests.clear()
    assert not is_here(there, "vae")
    assert not is_here(lacking, "vae")
    assert running.requests == []


def test_what_is_fetched_at_a_pinned_commit_is_here(running: Hub, checked: Callable[[CheckpointCard], str]) -> None:
    there = card({"repo": REPO})
    commit = record(running)
    prefetch(pin_known(there, {(REPO, "main"): commit}))
    assert not (Path(constants.HF_HUB_CACHE) / "models--maker--tiny" / "refs" / "main").exists()
    running.requests.clear()
    commits = recorded_commits([there], lambda _: None)
    found = entry(there, commits)
    assert found.missing == {}
    assert found.source["vae"] == {"repo": REPO, "commit": commit}
    assert entry(there, {}).missing.keys() == found.source.keys()
    assert checked(there) == "serve.yaml is sound\n"
    loaded = pin_known(there, commits)
    assert isinstance(loaded, CheckpointCard)
    (weights,) = located(loaded, "vae").weights
    blob = weights.resolve()
    blob.write_bytes(b"x" * blob.stat().st_size)
    with pytest.raises(ConfigError, match=str(weights)):
        checked(there)
    assert running.requests == []


def test_without_a_job_store_the_check_goes_on(
    running: Hub, checked: Callable[[CheckpointCard], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KINORAY_DATABASE_URL", NOWHERE)
    first, second, third = checked(card({"repo": REPO})).splitlines()
    assert first.startswith("which commits are pinned is not known: the job store cannot be reached")
    assert (second, "is not on this machine" in third) == ("serve.yaml is sound", True)
    (tmp_path / "data").touch()
    monkeypatch.setenv("KINORAY_DATABASE_URL", sqlite_url(tmp_path / "data" / "jobs.sqlite3"))
    assert checked(card({"repo": REPO})).startswith("which commits are pinned is not known: ")
    assert checked(card({"folder": str(TINY)})) == "serve.yaml is sound\n", "it is not needed for what is here"
    assert running.requests == []
