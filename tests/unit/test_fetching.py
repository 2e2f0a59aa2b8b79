"""`kinoray serve` fetches what its models lack: all that fits on the disk, and says what is wrong with the others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from cli.fetching import fetch_all
from cli.job_store import pins
from cli.service import StartFailed
from jobs.database import sqlite_url
from pipelines.card import CheckpointCard
from pipelines.weights import hub
from pipelines.weights.hub import bytes_to_come
from pipelines.weights.located import missing
from pipelines.weights.pin import pin_known
from pipelines.weights.prefetch import files_to_come
from tests.harness.elsewhere import TINY, VAE, card
from tests.harness.hub import Hub, own_hub

ONE, TWO = "maker/one", "maker/two"


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with two models, an empty cache and an empty job store."""
    monkeypatch.setenv("KINORAY_DATABASE_URL", sqlite_url(tmp_path / "jobs.sqlite3"))
    with own_hub(tmp_path / "home", monkeypatch) as running:
        running.push_folder(ONE, TINY)
        files = running.repositories[ONE].commits[running.repositories[ONE].refs["main"]]
        # Not the same contents, which would come once.
        running.push(TWO, {path: content + b" " for path, content in files.items()})
        yield running


def is_whole(model: CheckpointCard) -> bool:
    """Whether it is here at the commits that are pinned."""
    with pins() as record:
        loaded = pin_known(model, record.commits())
    assert isinstance(loaded, CheckpointCard)
    return all(missing(loaded, component) is None for component in loaded.all_components())


def free(patch: pytest.MonkeyPatch, size: int) -> None:
    patch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=size + hub.KEPT_FREE))


def test_the_disk_must_hold_all_that_comes(running: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = card({"repo": ONE}, name="one"), card({"repo": TWO}, name="two")
    size, both = (bytes_to_come([file for each in models for file in files_to_come(each)])
                  for models in ((one,), (one, two)))  # fmt: skip
    assert size < both
    said: list[str] = []
    free(monkeypatch, both - 1)
    running.sent.clear()
    fetch_all([one, card({"folder": str(TINY)}, name="local"), two], said.append)
    (sentence,) = said
    assert sentence.startswith("two (after one): 0.0 GB are to be fetched")
    assert (is_whole(one), is_whole(two)) == (True, False)
    assert len(running.downloads(VAE)) == 1, "nothing of the other one has come"
    free(monkeypatch, both - size)
    fetch_all([one, two], said.append)
    assert is_whole(two)
    assert said == [sentence]
    free(monkeypatch, 0)
    fetch_all([one, two], said.append)
    assert said == [sentence], "what is there needs no room"


def test_what_is_wrong_with_each_is_said_and_the_others_come(running: Hub) -> None:
    said: list[str] = []
    away, broken = card({"repo": "nobody/nothing"}, name="away"), card({"folder": "no/such/folder"}, name="broken")
    two = card({"repo": TWO}, name="two")
    fetch_all([away, broken, two], said.append)
    assert [each.split(":")[0] for each in said] == ["away", "broken"]
    assert is_whole(two)
    running.requests.clear()
    fetch_all([two], said.append)
    assert running.requests == []
    with pytest.raises(StartFailed, match=r"no model can be served: away: .*; broken: "):
        fetch_all([away, broken], said.append)


def test_models_that_share_files_need_room_once(running: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = card({"repo": ONE}, name="one"), card({"repo": ONE}, name="other")
    free(monkeypatch, bytes_to_come(files_to_come(one)))
    said: list[str] = []
    fetch_all([one, other], said.append)
    assert said == []
    assert is_whole(other)
    assert running.faults == []


def test_the_commit_that_is_pinned_comes_not_the_branch(running: Hub) -> None:
    commit = running.repositories[ONE].refs["main"]
    with pins() as record:
        record.pinned(ONE, None, lambda: commit)
    files = running.repositories[ONE].commits[commit]
    running.push(ONE, {path: content + b"later" for path, content in files.items()})
    one = card({"repo": ONE}, name="one")
    fetch_all([one], lambda _: None)
    assert is_whole(one)
    assert len(running.downloads(VAE)) == 1
