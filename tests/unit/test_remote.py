"""Weights that are not the card's are refused by their headers on the hub, before they are fetched."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from benchmarks.releases import ltx
from benchmarks.releases.files import write_file
from benchmarks.releases.networks import Width
from cli.prefetch import run_prefetch
from jobs.database import sqlite_url
from pipelines.card import CheckpointCard, Component
from pipelines.errors import WeightsUnavailable
from pipelines.weights import remote
from pipelines.weights.check import check
from pipelines.weights.download import RemoteFile
from pipelines.weights.header import read_header
from pipelines.weights.hub import Lack, Need, pinned
from pipelines.weights.load import check_network
from pipelines.weights.prefetch import prefetch_all
from pipelines.weights.remote import check_ahead, read_remote_header
from tests.harness.elsewhere import TINY, VAE, card
from tests.harness.hub import Hub, own_hub

REPO, SINGLE = "maker/tiny", "maker/single"
TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"
TEXT_ENCODER = "text_encoder/model.safetensors"
WEIGHTS = (VAE, TRANSFORMER, TEXT_ENCODER)
FILES = {path.relative_to(TINY).as_posix(): path.read_bytes() for path in TINY.rglob("*") if path.is_file()}


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with own_hub(tmp_path / "home", monkeypatch) as running:
        yield running


def plain(tensors: Mapping[str, tuple[int, ...]], **metadata: str) -> bytes:
    """A safetensors file of zeros in float32."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name, shape in tensors.items():
        start, end = end, end + 4 * _product(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + b"\0" * end


def _product(shape: tuple[int, ...]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product


def sent_of_weights(running: Hub) -> int:
    return sum(sent.count for path in (*WEIGHTS, "one.safetensors") for sent in running.downloads(path))


def refusal(card: CheckpointCard) -> str:
    with pytest.raises(WeightsUnavailable) as refused:
        prefetch_all([card], check=check_ahead)
    return refused.value.message


LORA = plain({f"transformer.blocks.{n}.lora_A.weight": (1000, 100) for n in range(20)})
OTHER = plain({"decoder.conv_in.conv.weight": (2000, 1000)})


@pytest.mark.parametrize("content", [LORA, OTHER], ids=["lora", "another"])
def test_a_wrong_file_is_refused_in_the_same_words_and_only_kilobytes_came(
    running: Hub, tmp_path: Path, content: bytes
) -> None:
    running.push(REPO, {**FILES, VAE: content})
    said = refusal(card({"repo": REPO}))
    for path, contents in {**FILES, VAE: content}.items():
        (tmp_path / "tiny" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tiny" / path).write_bytes(contents)
    with pytest.raises(WeightsUnavailable) as here:
        check_network(card({"folder": str(tmp_path / "tiny")}), "vae")
    assert said.startswith(f"{REPO}/{VAE} ")
    assert _without_paths(said) == _without_paths(here.value.message)
    assert 0 < sent_of_weights(running) <= 3 * remote.FIRST
    assert all(running.downloads(path) for path in WEIGHTS)  # in the order of the components' names


def _without_paths(sentence: str) -> list[str]:
    return [word for word in sentence.split() if "/" not in word]


def test_the_command_refuses_it_too(running: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running.push(REPO, {**FILES, VAE: LORA})
    monkeypatch.setenv("KINORAY_DATABASE_URL", sqlite_url(tmp_path / "jobs.sqlite3"))
    monkeypatch.setattr("pipelines.catalogue.get_card", lambda _: card({"repo": REPO}))
    with pytest.raises(WeightsUnavailable, match=rf"^{REPO}/{VAE} is a LoRA"):
        run_prefetch(Console(stderr=True), "m", None)
    assert 0 < sent_of_weights(running) <= 3 * remote.FIRST


def test_the_right_files_pass_and_then_come(running: Hub) -> None:
    running.push(REPO, FILES)
    there = card({"repo": REPO})
    seen = []

    def look(card: CheckpointCard, component: Component) -> None:
        check_ahead(card, component)
        seen.append(component)
        assert sent_of_weights(running) <= 3 * remote.FIRST

    found = prefetch_all([there], check=look)
    assert seen == list(there.all_components())
    assert {sent.start for path in WEIGHTS for sent in running.downloads(path)} == {0}
    check(there)
    running.requests.clear()
    assert prefetch_all([there], check=lambda *_: pytest.fail("there is nothing to fetch")) == found
    for component in there.all_components():
        check_ahead(there, component)  # by the files that are here
    assert running.requests == []


def test_what_is_here_already_is_checked_by_its_files(running: Hub) -> None:
    running.push(REPO, {**FILES, VAE: OTHER})
    there = card({"repo": REPO})
    prefetch_all([there])
    (found,) = {each.located.folder for each in prefetch_all([there])}
    (found / TRANSFORMER).unlink()
    running.sent.clear()
    with pytest.raises(WeightsUnavailable, match=rf"^{found}/vae/diffusion_pytorch_model.safetensors "):
        prefetch_all([there], check=check_ahead)
    assert running.downloads(VAE) == []


def test_shards_are_read_together(running: Hub) -> None:
    shards = {f"vae/diffusion_pytorch_model-0000{n}-of-00002.safetensors": n for n in (1, 2)}
    files = {path: content for path, content in FILES.items() if path != VAE}
    parts = {path: plain({f"part.{n}": (n, 1000)}, format="pt") for path, n in shards.items()}
    running.push(REPO, {**files, **parts})
    listed = _listed(running, *shards)
    header = read_remote_header(listed, "m")
    assert {name: (entry.dtype, entry.shape) for name, entry in header.entries.items()} == {
        "part.1": ("F32", (1, 1000)),
        "part.2": ("F32", (2, 1000)),
    }
    assert header.metadata == {"format": "pt"}
    assert header.title == f"{REPO}/vae (2 files)"
    assert refusal(card({"repo": REPO})).startswith(f"{REPO}/vae (2 files) ")


def test_one_file_with_its_configuration_elsewhere(running: Hub, tmp_path: Path) -> None:
    running.push(REPO, FILES)
    running.push(SINGLE, {"one.safetensors": OTHER})
    for config in (REPO, str(TINY)):
        there = card(
            {"repo": SINGLE, "file": "one.safetensors", "config": config}, {"text_encoder": {"folder": str(TINY)}}
        )
        with pytest.raises(WeightsUnavailable, match=rf"^{SINGLE}/one.safetensors holds no transformer"):
            prefetch_all([there], check=check_ahead)
    (tmp_path / "one.safetensors").write_bytes(OTHER)
    here = card({"file": str(tmp_path / "one.safetensors"), "config": REPO}, {"text_encoder": {"folder": str(TINY)}})
    with pytest.raises(WeightsUnavailable, match=rf"^{tmp_path}/one.safetensors holds no transformer"):
        prefetch_all([here], check=check_ahead)
    assert sent_of_weights(running) <= 2 * remote.FIRST


def test_one_file_with_the_makers_names(running: Hub, tmp_path: Path) -> None:
    name = "Lightricks/LTX-Video-0.9.5"
    ltx.write_repository(tmp_path / "ltx", name)
    write_file(tmp_path / "one.safetensors", ltx.single_file(ltx.REPOSITORIES[name], Width.SMALL), {})
    content = (tmp_path / "one.safetensors").read_bytes()
    running.push(SINGLE, {"one.safetensors": content})
    there = card(
        {"repo": SINGLE, "file": "one.safetensors", "config": str(tmp_path / "ltx")},
        {"text_encoder": {"folder": str(TINY)}},
    )
    prefetch_all([there], check=check_ahead)
    header = 8 + int.from_bytes(content[:8], "little")
    ahead = [remote.FIRST, header - remote.FIRST]  # for each of two networks
    assert [sent.count for sent in running.downloads("one.safetensors")] == [*ahead, *ahead, len(content)]


CUT = plain({"a": (1000, 100)})[:5000]
PAGE = b"<!doctype html><title>Log in</title>" + b" " * 3000
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
ABSURD = (2**60).to_bytes(8, "little") + b"\0" * 3000


@pytest.mark.parametrize(
    "content",
    [CUT, PAGE, POINTER, b"PK\x03\x04" + b"\0" * 3000, b"GGUF" + b"\0" * 3000, b"", b"12345", ABSURD],
    ids=["cut short", "web page", "pointer", "pickle", "gguf", "empty", "tiny", "absurd"],
)
def test_what_is_no_safetensors_file_is_said_as_of_one_here(
    running: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.setattr(remote, "FIRST", 2000)
    running.push(REPO, {**FILES, VAE: content})
    here = tmp_path / "here"
    here.write_bytes(content)
    with pytest.raises(WeightsUnavailable) as local:
        read_header([here])
    with pytest.raises(WeightsUnavailable) as there:
        read_remote_header(_listed(running, VAE), "m")
    assert there.value.message == local.value.message.replace(str(here), f"{REPO}/{VAE}")
    assert sent_of_weights(running) <= 2000


def test_a_long_header_is_read_whole(running: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "FIRST", 1000)
    running.push(REPO, FILES)
    assert read_remote_header(_listed(running, VAE), "m").entries.keys() == read_header([TINY / VAE]).entries.keys()
    assert [(sent.start, sent.count) for sent in running.downloads(VAE)] == [(0, 1000), (1000, HEADER - 1000)]
    running.sent.clear()
    monkeypatch.setattr(remote, "LONGEST_HEADER", HEADER - 9)
    with pytest.raises(WeightsUnavailable):
        read_remote_header(_listed(running, VAE), "m")
    assert [(sent.start, sent.count) for sent in running.downloads(VAE)] == [(0, 1000)]


HEADER = 8 + int.from_bytes(FILES[VAE][:8], "little")


def test_a_hub_that_sends_no_parts_is_listened_to_as_far_as_needed(
    running: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "FIRST", 1000)
    running.push(REPO, FILES)
    running.ranges = False
    running.holds[VAE] = HEADER  # and no more until `open` is set
    running.open.clear()
    assert read_remote_header(_listed(running, VAE), "m").entries.keys() == read_header([TINY / VAE]).entries.keys()
    assert len(running.downloads(VAE)) == 2


def test_a_gguf_file_is_left_for_later(running: Hub) -> None:
    running.push(REPO, FILES)
    running.push(SINGLE, {"t5.gguf": b"GGUF" + b"\0" * 3000})
    there = card({"repo": REPO}, {"text_encoder": {"repo": SINGLE, "file": "t5.gguf", "config": REPO}})
    prefetch_all([there], check=check_ahead)
    with pytest.raises(WeightsUnavailable, match=r"t5\.gguf is "):
        check(there)


def test_a_hub_that_sends_nothing_is_said(running: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    running.push(REPO, FILES)
    listed = _listed(running, VAE)
    monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda _: None))
    running.failing = [503] * 10
    with pytest.raises(WeightsUnavailable, match=rf"^m: the hub .* answered 503 for {REPO}"):
        read_remote_header(listed, "m")
    running.failing = [410]
    with pytest.raises(WeightsUnavailable, match=rf"^m: the hub .* answered 410 for {REPO}"):
        read_remote_header(listed, "m")
    running.failing = [503, 503]
    assert read_remote_header(listed, "m").entries


def _listed(running: Hub, *paths: str) -> list[RemoteFile]:
    pinned(Need("m", REPO, None, "vae"), Lack((), ""))
    commit = running.repositories[REPO].refs["main"]
    contents = running.repositories[REPO].commits[commit]
    return [RemoteFile(REPO, commit, path, len(contents[path]), "") for path in paths]
