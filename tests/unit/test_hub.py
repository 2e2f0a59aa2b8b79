"""The hub, over real HTTP: what is fetched, what is not fetched twice, and what is said when it cannot be."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import constants, snapshot_download

from pipelines.errors import WeightsUnavailable
from pipelines.weights import download, hub
from pipelines.weights.hub import Lack, Need, Snapshot, cached_commit, commit_of, fetch, in_cache, newest_commit
from tests.harness.hub import MEMBER, STRANGER, Hub
from tests.unit.hub_world import FILES, FP16, REPO, SHARDS, VAE, in_snapshot, main, need, quick_hub


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with quick_hub(tmp_path, monkeypatch) as running:
        yield running


# What is fetched


@pytest.mark.parametrize(
    ("wanted", "weights", "others"),
    [
        (need(), [VAE], ["vae/config.json"]),
        (need(variant="fp16"), [FP16], ["vae/config.json"]),
        (need("text_encoder"), SHARDS, ["text_encoder/config.json", "text_encoder/model.safetensors.index.json"]),
        (need("tokenizer"), [], ["tokenizer/tokenizer_config.json", "tokenizer/spiece.model"]),
        (need(file="ltxv.safetensors"), ["ltxv.safetensors"], []),
        (Need("m", REPO, None, "vae", weights=False), [], ["vae/config.json"]),
    ],
)
def test_exactly_what_a_component_needs_is_fetched(
    running: Hub, wanted: Need, weights: list[str], others: list[str]
) -> None:
    found = fetch(wanted)
    assert found.commit == main(running)
    assert [path.relative_to(found.folder).as_posix() for path in found.weights] == weights
    assert in_snapshot(found) == {*weights, *others}
    for path in (*weights, *others):
        assert (found.folder / path).read_bytes() == FILES[path]
        assert [(sent.start, sent.count) for sent in running.downloads(path)] == [(0, len(FILES[path]))]


def test_what_is_there_needs_no_network(running: Hub) -> None:
    first = fetch(need("text_encoder"))
    running.requests.clear()
    assert fetch(need("text_encoder")) == first
    assert fetch(need("text_encoder", revision=first.commit)) == first
    assert running.requests == []


def test_one_missing_shard_is_missed_and_fetched(running: Hub) -> None:
    found = fetch(need("text_encoder"))
    found.weights[2].unlink()
    lack = in_cache(need("text_encoder"))
    assert isinstance(lack, Lack)
    assert [file.path for file in lack.files] == [SHARDS[2]]
    found.weights[2].parent.joinpath("config.json").unlink()
    running.sent.clear()
    assert fetch(need("text_encoder")) == found
    assert running.sent == []  # the blobs were there


def test_a_snapshot_of_a_tool_that_kept_no_listing_is_judged_by_its_names(running: Hub) -> None:
    found = fetch(need("text_encoder"))
    listing = next(found.folder.parent.parent.joinpath("trees").iterdir())
    forget(listing)
    running.requests.clear()
    assert in_cache(need("text_encoder")) == found
    found.weights[1].unlink()
    # The client takes one of four shards for the whole; this is why it is not asked.
    wanted = ["text_encoder/*.safetensors"]
    assert snapshot_download(REPO, allow_patterns=wanted, local_files_only=True) == str(found.folder)
    assert isinstance(in_cache(need("text_encoder")), Lack)
    assert running.requests == []
    assert fetch(need("text_encoder")) == found


def test_without_a_listing_each_need_is_judged_by_what_it_names(running: Hub) -> None:
    single = need(file="ltxv.safetensors")
    fetch(single)
    described = Need("m", REPO, None, "vae", weights=False)
    found = fetch(described)
    forget(next(found.folder.parent.parent.joinpath("trees").iterdir()))
    running.requests.clear()
    assert in_cache(described) == found
    assert in_cache(need()) == Lack((), "vae")
    one = in_cache(single)
    assert isinstance(one, Snapshot)
    assert one.weights == (found.folder / "ltxv.safetensors",)
    one.weights[0].unlink()
    assert in_cache(single) == Lack((), "ltxv.safetensors")
    (found.folder / "vae" / "config.json").unlink()
    assert in_cache(described) == Lack((), "vae")
    assert running.requests == []


def forget(listing: Path) -> None:
    from huggingface_hub import _tree_cache

    listing.unlink()
    _tree_cache._IN_MEMORY_TREE_CACHE.clear()


def test_what_other_tools_fetched_counts(running: Hub) -> None:
    snapshot_download(REPO, allow_patterns=["vae/*"])
    running.requests.clear()
    assert fetch(need(variant="fp16")).weights[0].read_bytes() == FILES[FP16]
    assert running.requests == []


# Commits


def test_a_branch_a_tag_and_a_commit(running: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    first = main(running)
    second = running.push(REPO, {**FILES, VAE: b"newer"}, branch="next")
    assert commit_of(REPO, None) == commit_of(REPO, "main") == first
    assert commit_of(REPO, "next") == second
    running.requests.clear()
    assert commit_of(REPO, second) == second
    assert running.requests == []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert commit_of(REPO, None) == first
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert commit_of(REPO, "next") == second
    with pytest.raises(WeightsUnavailable, match=r"^maker/other: maker/other could not be fetched"):
        commit_of("maker/other", None)


def test_a_branch_that_moved_on_is_followed_only_when_something_is_missing(running: Hub) -> None:
    old = fetch(need())
    new = running.push(REPO, {**FILES, VAE: b"newer"})
    assert fetch(need()) == old
    assert fetch(need("tokenizer")).commit == new
    assert cached_commit(need()) == new
    assert fetch(need()).weights[0].read_bytes() == b"newer"
    assert fetch(need(revision=old.commit)) == old


def test_a_branch_is_asked_again_for_what_its_older_commit_lacks(running: Hub) -> None:
    fetch(need())
    with pytest.raises(WeightsUnavailable, match="no variant 'bf16'"):
        fetch(need(variant="bf16"))
    running.push(REPO, {**FILES, "vae/diffusion_pytorch_model.bf16.safetensors": b"new"})
    assert fetch(need(variant="bf16")).weights[0].read_bytes() == b"new"


# Sizes and space


def test_a_file_of_another_size_than_listed_is_not_kept(running: Hub) -> None:
    running.listed[VAE] = len(FILES[VAE]) + 1
    with pytest.raises(WeightsUnavailable, match=rf"^m: .* lists {VAE} of {REPO} with 10241 bytes and sends another"):
        fetch(need())
    assert isinstance(in_cache(need()), Lack)
    assert list(Path(constants.HF_HUB_CACHE).rglob("*.incomplete")) == []


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize("kind", ["linked", "blob", "copied"])
def test_a_truncated_file_of_the_cache_is_fetched_again(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    (path,) = fetch(need()).weights
    if kind == "copied":  # as where there are no symbolic links
        path.unlink()
        path.write_bytes(FILES[VAE][:17])
    else:
        os.truncate(path, 17)
    if kind == "blob":
        path.unlink()
    with monkeypatch.context() as offline:
        offline.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(WeightsUnavailable, match=rf"^m: {VAE} of {REPO} is not in the cache"):
            fetch(need())
    assert fetch(need()).weights[0].read_bytes() == FILES[VAE]


def test_a_disk_that_is_too_small_is_said_before_anything_comes(running: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    free = len(FILES[VAE]) + len(FILES["vae/config.json"]) + hub.KEPT_FREE
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free - 1))
    with pytest.raises(
        WeightsUnavailable, match=r"^m: 0\.0 GB are to be fetched to .*/hub, where 0\.3 GB are free; .*HF_HOME"
    ):
        fetch(need())
    assert running.downloads(VAE) == []
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free))
    fetch(need())
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=0))
    fetch(need())  # all of it is there


def test_what_another_commit_has_in_the_cache_takes_no_space(running: Hub) -> None:
    (weights,) = fetch(need()).weights
    twice = {**FILES, "README.md": b"new", FP16: b"other", "tokenizer/a.json": b"same", "tokenizer/b.json": b"same"}
    new = running.push(REPO, twice)
    hub.pinned(need(revision=new), Lack((), ""))

    def to_come(wanted: Need) -> int:
        lack = in_cache(wanted.at(new))
        assert isinstance(lack, Lack)
        return hub.bytes_to_come(lack.files)

    assert to_come(need()) == 0
    assert to_come(need(variant="fp16")) == len(b"other")
    assert to_come(need("tokenizer")) == sum(len(FILES[path]) for path in FILES if path.startswith("tok")) + len("same")
    running.sent.clear()
    assert fetch(need(revision=new)).weights[0].samefile(weights)
    assert running.sent == []
    (fetch(need(revision=new)).folder / VAE).unlink()
    os.truncate(weights, 17)
    assert to_come(need()) == len(FILES[VAE])
    weights.unlink()
    weights.write_bytes(FILES[VAE])  # a copy, to which nothing is linked
    assert to_come(need()) == len(FILES[VAE])


def test_a_cache_that_cannot_be_written_is_said(running: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file" / "hub"))
    with pytest.raises(WeightsUnavailable, match=r"^m: .*(written|writable).* HF_HOME"):
        fetch(need())
    assert running.downloads(VAE) == []


@pytest.mark.usefixtures("running")
def test_a_file_that_cannot_be_replaced_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = fetch(need()).weights
    os.truncate(path, 17)

    def refuse(_: Path, **__: bool) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(
        WeightsUnavailable, match=rf"^m: {REPO} could not be written to the cache .*/hub \(Read-only file system\)"
    ):
        fetch(need())


@pytest.mark.usefixtures("running")
def test_a_disk_that_becomes_full_is_said() -> None:
    lack = in_cache(hub.pinned(need(), Lack((), "")))
    assert isinstance(lack, Lack)
    weights = next(file for file in lack.files if file.path == VAE)
    partial = download.partial_path(weights)
    partial.parent.mkdir(parents=True, exist_ok=True)
    partial.symlink_to("/dev/full")
    with pytest.raises(WeightsUnavailable, match=rf"^m: the disk became full while {REPO} was fetched to .*/hub; free"):
        fetch(need())


@pytest.mark.usefixtures("running")
def test_a_file_that_another_process_removes_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def come_and_go(*file: Any) -> None:
        download.download(*file).unlink()

    monkeypatch.setattr(hub, "download", come_and_go)
    with pytest.raises(
        WeightsUnavailable, match=rf"^m: vae/config\.json, {VAE} of {REPO} came, and is no longer whole"
    ):
        fetch(need())


# What is said


def test_a_gated_repository_names_its_licence(running: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    running.push("maker/gated", FILES, gated=True)
    licence = "accept the licence at https://huggingface.co/maker/gated"
    with pytest.raises(WeightsUnavailable, match=rf"^m: maker/gated is gated: {licence} and set HF_TOKEN"):
        fetch(need(repo="maker/gated"))
    monkeypatch.setenv("HF_TOKEN", STRANGER)
    with pytest.raises(WeightsUnavailable, match=rf"{licence} with the account that HF_TOKEN belongs to"):
        fetch(need(repo="maker/gated"))
    monkeypatch.setenv("HF_TOKEN", MEMBER)
    assert fetch(need(repo="maker/gated")).weights[0].read_bytes() == FILES[VAE]
    assert {request.token for request in running.requests if request.store} == {None}


def test_a_wrong_token_is_named(running: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(WeightsUnavailable, match=rf"^m: the hub {running.url} refuses the token in HF_TOKEN"):
        fetch(need())


@pytest.mark.parametrize("token", [None, STRANGER])
def test_a_repository_that_is_not_there(running: Hub, monkeypatch: pytest.MonkeyPatch, token: str | None) -> None:
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    way = "the token in HF_TOKEN does not open it" if token else "it is private and needs HF_TOKEN"
    with pytest.raises(WeightsUnavailable, match=rf"^m: the hub {running.url} shows no repository a/b: .*{way}"):
        fetch(need(repo="a/b"))


@pytest.mark.parametrize("revision", ["v2", "0" * 40])
def test_a_revision_that_is_not_there(running: Hub, revision: str) -> None:
    with pytest.raises(WeightsUnavailable, match=rf"^m: {REPO} has no revision '{revision}'; correct `revision`"):
        fetch(need(revision=revision))
    assert running.sent == []


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        (need(file="other.safetensors"), rf"^m: {REPO} has no file other\.safetensors; correct `file`"),
        (need("unet"), rf"^m: {REPO} has no folder unet"),
        (need(variant="bf16"), rf"^m: {REPO}: vae has no variant 'bf16'"),
        (need(repo="not a name"), r"^m: 'not a name' is no name of a repository"),
    ],
)
def test_what_a_repository_does_not_have(running: Hub, wanted: Need, sentence: str) -> None:
    with pytest.raises(WeightsUnavailable, match=sentence):
        fetch(wanted)
    assert not [sent for sent in running.sent if sent.path != ".gitattributes"]


@pytest.mark.parametrize("revision", [None, "0" * 40])
def test_no_connection(running: Hub, monkeypatch: pytest.MonkeyPatch, revision: str | None) -> None:
    # Nothing listens on this port of the loopback interface. That is said at once.
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda _: pytest.fail("it waits")))
    sentence = (
        rf"^m: {REPO} could not be fetched, since the hub http://127\.0\.0\.1:9 cannot be reached \(ConnectError\)\. "
        r"Where no hub can be reached, copy the checkpoint here and set `source: \{folder: /path/to/it\}` in the card "
    )
    with pytest.raises(WeightsUnavailable, match=sentence):
        fetch(need(revision=revision))
    assert running.requests == []


def test_the_newest_commit_is_the_hubs_own_word(running: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the hub cannot be asked, the commit that the cache knows is not passed off as the newest."""
    fetch(need())
    moved = running.push(REPO, {**FILES, "README.md": b"new"})
    assert newest_commit(REPO, None, model="m") == moved
    with monkeypatch.context() as offline:
        offline.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(WeightsUnavailable, match=f"^m: .*{REPO}.* HF_HUB_OFFLINE is set"):
            newest_commit(REPO, None, model="m")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(WeightsUnavailable, match=r"^m: .* cannot be reached"):
        newest_commit(REPO, None, model="m")


def test_the_usual_hub_has_no_address_in_its_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.weights.hub_errors import hub_name

    monkeypatch.setattr(constants, "ENDPOINT", "https://huggingface.co")
    assert hub_name() == "the Hugging Face hub"


def test_a_server_that_is_no_hub(running: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = main(running)
    hub.pinned(need(), Lack((), ""))
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", running.url + "/api/models/{repo_id}?{revision}{filename}"
    )
    with pytest.raises(WeightsUnavailable, match=r"^m: http.* has no ETag.* correct HF_ENDPOINT"):
        fetch(need(revision=commit))


def test_offline_the_cache_is_all_there_is(running: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    found = fetch(need("text_encoder"))
    found.weights[1].unlink()
    fetch(need())
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    running.requests.clear()
    assert fetch(need()).commit == found.commit
    way = r"and HF_HUB_OFFLINE is set; run `./kinoray prefetch m` where the hub .* can be reached\. Where no hub"
    with pytest.raises(WeightsUnavailable, match=rf"^m: {SHARDS[1]} of {REPO} is not in the cache {way}"):
        fetch(need("text_encoder"))
    with pytest.raises(WeightsUnavailable, match=rf"^m: tokenizer of a/b is not in the cache {way}"):
        fetch(need("tokenizer", repo="a/b"))
    with pytest.raises(WeightsUnavailable, match=rf"^m: {REPO}: vae has no variant 'bf16'"):
        fetch(need(variant="bf16"))
    with pytest.raises(WeightsUnavailable, match=r"^a/b: the commit of v1 of a/b is not in the cache and HF_HUB_OFFL"):
        commit_of("a/b", "v1")
    assert running.requests == []
