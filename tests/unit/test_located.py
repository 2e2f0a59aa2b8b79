"""Where a component's files are, whatever its source; and bringing whole models onto a machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import termios
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from huggingface_hub import constants
from rich.console import Console

from cli import prefetch as verb
from jobs.database import sqlite_url
from pipelines.card import Source
from pipelines.catalogue import get_card
from pipelines.errors import WeightsUnavailable
from pipelines.paths import ROOT
from pipelines.weights import hub
from pipelines.weights.located import located, missing, whole_commit
from pipelines.weights.prefetch import prefetch, prefetch_all
from pipelines.weights.remote import FIRST
from tests.harness.elsewhere import TINY, VAE, card
from tests.harness.hub import Hub, own_hub

REPO, SINGLE = "maker/tiny", "maker/single"
COMPONENTS = ("scheduler", "text_encoder", "tokenizer", "transformer", "vae")
ONE = "ltxv.safetensors"


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with the demo model in one repository and a single file in another; an empty cache."""
    with own_hub(tmp_path / "home", monkeypatch) as running:
        running.push_folder(REPO, TINY)
        running.push(SINGLE, {ONE: b"all in one"})
        yield running


# Local sources


def test_a_local_folder() -> None:
    here = card({"folder": str(TINY)})
    found = {component: located(here, component) for component in COMPONENTS}
    assert found["vae"].weights == (TINY / VAE,)
    assert found["scheduler"].weights == ()
    assert {each.folder for each in found.values()} == {TINY}
    assert not any(each.single or each.commit for each in found.values())
    assert [missing(here, component) for component in COMPONENTS] == [None] * 5


def test_what_a_local_folder_lacks_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    here = card({"folder": str(folder)})
    with pytest.raises(WeightsUnavailable, match=f"^m: {folder} is no folder on this machine, in the card m.yaml$"):
        located(here, "vae")
    folder.touch()
    with pytest.raises(WeightsUnavailable, match=f"^m: {folder} is a file: name it as `file`, in the card m.yaml$"):
        located(here, "vae")
    folder.unlink()
    folder.mkdir()
    sentence = f"m: {folder} has no folder vae; it must be a diffusers checkpoint"
    with pytest.raises(WeightsUnavailable, match=f"^{sentence}$"):
        located(here, "vae")
    found = missing(here, "vae")
    assert found is not None
    assert (found.place, found.what) == (str(folder), sentence)
    shutil.copytree(TINY, folder, dirs_exist_ok=True)
    assert missing(here, "vae") is None
    (folder / VAE).rename(folder / "vae" / "diffusion_pytorch_model.fp16.safetensors")
    with pytest.raises(WeightsUnavailable, match=f"^m: {folder}/vae has only the variant fp16"):
        located(here, "vae")
    assert located(card({"folder": str(folder), "variant": "fp16"}), "vae").weights[0].name.endswith("fp16.safetensors")
    (folder / "vae" / "config.json").unlink()
    with pytest.raises(WeightsUnavailable, match=f"^m: {folder}/vae has no config.json"):
        located(here, "vae")


def test_a_local_single_file(tmp_path: Path) -> None:
    file = tmp_path / ONE
    here = card({"file": str(file), "config": str(TINY)}, {"text_encoder": {"folder": str(TINY)}})
    with pytest.raises(WeightsUnavailable, match=f"^m: there is no file {file}; set source.file in the card m.yaml"):
        located(here, "vae")
    assert missing(here, "vae") is not None
    assert located(here, "scheduler").weights == ()  # its files are those of `config`
    file.touch()
    found = located(here, "vae")
    assert (found.folder, found.weights, found.single, found.commit) == (TINY, (file,), True, None)
    assert located(here, "scheduler").folder == TINY
    assert missing(here, "vae") is None


def test_a_configuration_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / ONE).touch()
    without = card(
        {"file": str(tmp_path / ONE), "config": str(tmp_path / "tiny")}, {"text_encoder": {"folder": str(TINY)}}
    )
    with pytest.raises(WeightsUnavailable, match=f"^m: there is no folder {tmp_path}/tiny; set `config`"):
        located(without, "vae")


# The hub


def test_a_repository_on_the_hub(running: Hub) -> None:
    there = card({"repo": REPO})
    commit = running.repositories[REPO].refs["main"]
    lack = missing(there, "vae")
    assert lack is not None
    assert (lack.place, lack.what) == (REPO, "vae")
    assert running.requests == []
    found = located(there, "vae")
    assert found.weights == (found.folder / VAE,)
    assert (found.weights[0].read_bytes(), found.single, found.commit) == ((TINY / VAE).read_bytes(), False, commit)
    assert missing(there, "vae") is None
    assert located(there, "scheduler").commit == commit
    found.weights[0].unlink()
    lack = missing(there, "vae")
    assert lack is not None
    assert lack.what == VAE


def test_a_single_file_on_the_hub_with_its_configuration_from_another_commit(running: Hub) -> None:
    old = running.repositories[REPO].refs["main"]
    new = running.push(REPO, {"vae/config.json": b"{}"})
    for config, commit in ((f"{REPO}@{old}", old), (REPO, new)):
        there = card({"repo": SINGLE, "file": ONE, "config": config}, {"text_encoder": {"folder": str(TINY)}})
        found = located(there, "vae")
        assert found.weights[0].read_bytes() == b"all in one"
        assert (found.single, found.commit) == (True, running.repositories[SINGLE].refs["main"])
        assert found.folder.name == commit
        assert not (found.folder / VAE).exists()
        assert missing(there, "vae") is None
    with pytest.raises(WeightsUnavailable, match=f"^m: {REPO} has no folder scheduler"):
        located(there, "scheduler")
    assert (
        located(
            card({"repo": SINGLE, "file": ONE, "config": f"{REPO}@{old}"}, {"text_encoder": {"folder": str(TINY)}}),
            "scheduler",
        ).commit
        == old
    )


def test_a_branch_is_known_by_what_the_cache_has_whole(running: Hub) -> None:
    there = card({"repo": REPO})
    assert whole_commit(there, REPO, None) is None
    old = prefetch_all([there])[0].located.commit
    running.push(REPO, {VAE: b"newer"})
    running.requests.clear()
    for of in (there, card({"repo": REPO, "revision": "main"})):
        assert whole_commit(of, REPO, None) == whole_commit(of, REPO, "main") == old
    assert whole_commit(there, REPO, "next") is None
    assert whole_commit(there, "a/b", None) is None
    assert whole_commit(card({"repo": REPO, "variant": "fp16"}), REPO, None) is None
    assert whole_commit(get_card("simulated"), REPO, None) is None
    (located(there.model_copy(update={"source": Source(repo=REPO, revision=old)}), "vae").folder / VAE).unlink()
    assert whole_commit(there, REPO, None) is None
    assert whole_commit(there, REPO, None, ("transformer", "scheduler")) == old
    assert whole_commit(there, REPO, None, ("vae", "scheduler")) is None
    assert running.requests == []


# Whole models


def test_every_component_is_brought_from_one_commit(running: Hub) -> None:
    there = card({"repo": REPO})
    located(there, "vae")
    before = running.repositories[REPO].refs["main"]
    files = dict(running.repositories[REPO].commits[before])
    after = running.push(REPO, {**files, "scheduler/scheduler_config.json": b'{"newer": 1}'})
    running.sent.clear()
    found = prefetch_all([there])
    assert [each.component for each in found] == list(COMPONENTS)
    assert {each.located.commit for each in found} == {after}
    assert running.downloads(VAE) == []  # the same contents as before
    running.requests.clear()
    assert prefetch_all([there]) == found
    assert prefetch(there) == sorted(each.place for each in found)
    assert running.requests == []
    vae = next(each for each in found if each.component == "vae")
    assert (vae.size, vae.place) == ((TINY / VAE).stat().st_size, vae.located.folder / "vae")


def test_the_plan_counts_what_a_branch_has_changed(running: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    there = card({"repo": REPO})
    files = dict(running.repositories[REPO].commits[located(there, "vae").commit or ""])
    running.push(REPO, {**files, VAE: b"other weights"})
    running.sent.clear()
    others = sum(len(content) for path, content in files.items() if path.split("/")[0] in {*COMPONENTS} - {"vae"})
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=others + hub.KEPT_FREE))
    with pytest.raises(WeightsUnavailable, match=r"^m: 0\.0 GB are to be fetched"):
        prefetch(there)
    assert running.downloads(VAE) == []


def test_what_models_share_comes_once_and_the_disk_must_hold_all(running: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = card({"repo": REPO}), card({"repo": REPO}).model_copy(update={"id": "other"})
    size = sum(
        path.stat().st_size for component in COMPONENTS for path in (TINY / component).iterdir() if path.is_file()
    )
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=size + hub.KEPT_FREE - 1))
    with pytest.raises(WeightsUnavailable, match=rf"^m, other: {size / 1e9:.1f} GB are to be fetched"):
        prefetch_all([one, other])
    assert running.downloads(VAE) == []
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=size + hub.KEPT_FREE))
    assert {each.model for each in prefetch_all([one, other])} == {"m", "other"}
    assert len(running.downloads(VAE)) == 1
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=0))
    prefetch(one)  # what is there needs no space


def test_what_is_wrong_here_is_said_before_anything_is_fetched(running: Hub, tmp_path: Path) -> None:
    broken = card({"repo": REPO}, {"text_encoder": {"folder": str(tmp_path)}})
    with pytest.raises(WeightsUnavailable, match=f"^m: {tmp_path} has no folder text_encoder"):
        prefetch(broken)
    with pytest.raises(WeightsUnavailable, match=r"^m: the hub .* shows no repository nobody/nothing"):
        prefetch(card({"repo": REPO}, {"vae": {"repo": "nobody/nothing"}}))
    assert running.downloads(VAE) == []
    assert prefetch(get_card("simulated")) == []


# The command


def kinoray(*words: str, running: Hub, folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**environment_of(running, folder), **more}
    return subprocess.run(
        [str(ROOT / "kinoray"), *words], env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def environment_of(running: Hub, folder: Path) -> dict[str, str]:
    own = {"KINORAY_MODELS": str(folder / "cards"), "KINORAY_DATA": str(folder / "data"), "OMP_NUM_THREADS": "1"}
    return {**os.environ, **running.environment(folder / "home"), **own}


def test_the_verb_says_where_everything_is_and_checks_it(
    running: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KINORAY_DATABASE_URL", sqlite_url(tmp_path / "jobs.sqlite3"))
    models = {"m": card({"repo": REPO}), "other": card({"folder": str(TINY)}).model_copy(update={"id": "other"})}
    ahead: list[tuple[str, str]] = []
    after: list[str] = []
    monkeypatch.setattr(verb, "check_ahead", lambda card, component: ahead.append((card.id, component)))
    monkeypatch.setattr(verb, "check", lambda card: after.append(card.id))
    monkeypatch.setattr("pipelines.catalogue.get_card", models.__getitem__)
    monkeypatch.setattr("deployments.configuration.serve_config.load_config", lambda path: path)
    monkeypatch.setattr("deployments.configuration.serve_config.served_cards", lambda _: list(models.values()))

    lines = said_by_verb("m", None)
    commit = running.repositories[REPO].refs["main"]
    place = Path(constants.HF_HUB_CACHE) / "models--maker--tiny" / "snapshots" / commit
    assert lines[0] == f"m: {REPO} main is pinned to {commit} in the job store {sqlite_url(tmp_path / 'jobs.sqlite3')}"
    assert [line.split(": ")[1] for line in lines[1:]] == list(COMPONENTS)
    assert f"m: vae: {place}/vae ({(TINY / VAE).stat().st_size / 1e6:.2f} MB, commit {commit})" in lines
    assert (ahead, after) == ([("m", component) for component in COMPONENTS], ["m"])

    lines = said_by_verb(None, tmp_path)
    assert [line for line in lines if line.startswith("other: vae: ")] == [
        f"other: vae: {TINY}/vae ({(TINY / VAE).stat().st_size / 1e6:.2f} MB)"
    ]
    assert after == ["m", "m", "other"]
    assert len(ahead) == 5  # nothing was left to fetch


def said_by_verb(model: str | None, config: Path | None) -> list[str]:
    said = StringIO()
    verb.run_prefetch(Console(file=said, highlight=False), model, config)
    return said.getvalue().splitlines()


@pytest.fixture
def cards(tmp_path: Path) -> Path:
    """A folder with the operator's card of the repository on the hub."""
    folder = tmp_path / "cards"
    folder.mkdir()
    values = card({"repo": REPO}).model_dump(mode="json")
    (folder / "m.yaml").write_text(yaml.safe_dump(values))
    return folder


@pytest.mark.long
@pytest.mark.usefixtures("cards")
def test_the_command_shows_progress_and_places_and_then_works_offline(running: Hub, tmp_path: Path) -> None:
    shown = on_a_terminal(["prefetch", "m"], environment_of(running, tmp_path))
    assert f"{VAE}: 100%" in shown
    commit = running.repositories[REPO].refs["main"]
    place = Path(constants.HF_HUB_CACHE) / "models--maker--tiny" / "snapshots" / commit / "vae"
    megabytes = (TINY / VAE).stat().st_size / 1e6
    assert f"m: vae: {place} ({megabytes:.2f} MB, commit {commit})" in shown.splitlines()
    (place / "config.json").unlink()
    running.requests.clear()
    offline = kinoray("prefetch", "m", running=running, folder=tmp_path, HF_HUB_OFFLINE="1")
    assert offline.returncode == 1
    said = " ".join(offline.stderr.split())
    assert f"error: m: vae/config.json of {REPO} is not in the cache and HF_HUB_OFFLINE is set; run `./kinoray" in said
    assert running.requests == []


def on_a_terminal(words: list[str], environment: dict[str, str]) -> str:
    """What a command that ends well writes to a terminal."""
    terminal, end = os.openpty()
    termios.tcsetwinsize(end, (40, 200))
    process = subprocess.Popen([str(ROOT / "kinoray"), *words], env=environment, stderr=end)
    os.close(end)
    shown = b""
    with os.fdopen(terminal, "rb", buffering=0) as screen:
        try:
            while text := screen.read(4096):
                shown += text
        except OSError:
            pass  # how a terminal says that nobody writes to it any more
    assert process.wait() == 0, shown
    return shown.decode()


@pytest.mark.long
@pytest.mark.usefixtures("cards")
def test_the_command_fetches_all_that_a_config_file_serves(running: Hub, tmp_path: Path) -> None:
    config = yaml.safe_load((ROOT / "configs" / "local.yaml").read_text())
    config["applications"][0]["args"]["models"] = ["m", "svd-tiny"]
    del config["applications"][0]["deployments"]
    path = tmp_path / "serve.yaml"
    path.write_text(yaml.safe_dump(config))
    done = kinoray("prefetch", "--all", str(path), running=running, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith(("m: ", "svd-tiny: "))]
    assert [line.split(": ")[0] for line in lines] == ["m"] * 6 + ["svd-tiny"] * 5
    assert [sent.count for sent in running.downloads(VAE)] == [FIRST, (TINY / VAE).stat().st_size]  # its header before


@pytest.mark.usefixtures("cards")
def test_the_command_takes_a_model_or_a_config_file(running: Hub, tmp_path: Path) -> None:
    for words in ((), ("m", "--all", "configs/local.yaml")):
        done = kinoray("prefetch", *words, running=running, folder=tmp_path)
        assert done.returncode == 2
        assert "name a model, or a config file with --all CONFIG" in done.stderr
    assert running.requests == []
