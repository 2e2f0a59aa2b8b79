"""The hub, over real HTTP: what is fetched, what is not fetched twice, and what is said when it cannot be."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import constants, snapshot_download
from huggingface_hub.utils import WeakFileLock

from pipelines.errors import WeightsUnavailable
from pipelines.paths import ROOT
from pipelines.weights import download, hub
from pipelines.weights.hub import Lack, Need, Snapshot, cached_commit, commit_of, fetch, in_cache, newest_commit
from tests.harness.hub import MEMBER, STRANGER, Hub, own_hub
from tests.harness.processes import until

REPO = "maker/video"
VAE = "vae/diffusion_pytorch_model.safetensors"
FP16 = "vae/diffusion_pytorch_model.fp16.safetensors"
SHARDS = [f"text_encoder/model-0000{n}-of-00004.safetensors" for n in (1, 2, 3, 4)]
FILES = {
    "model_index.json": b"{}",
    "vae/config.json": b'{"of": "vae"}',
    VAE: bytes(range(256)) * 40,
    FP16: bytes(range(256)) * 20,
    "text_encoder/config.json": b'{"of": "text_encoder"}',
    "text_encoder/model.safetensors.index.json": b"{}",
    **{path: f"{path} ".encode() * 100 for path in SHARDS},
    "tokenizer/tokenizer_config.json": b"{}",
    "tokenizer/spiece.model": b"pieces",
    "ltxv.safetensors": b"one file" * 500,
}
DEADLINE_S = 60


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with one repository, an empty cache, and a client that does not pause between attempts."""
    monkeypatch.setattr("huggingface_hub.file_download.time", SimpleNamespace(sleep=lambda _: None))
    monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda _: None))
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100)
    monkeypatch.setattr(download, "WAIT_S", 0)
    with own_hub(tmp_path, monkeypatch) as running:
        running.push(REPO, FILES)
        yield running


def need(component: str = "vae", **fields: str | None) -> Need:
    return Need("m", **{"repo": REPO, "revision": None, "component": component, **fields})  # type: ignore[arg-type]


def main(running: Hub) -> str:
    return running.repositories[REPO].refs["main"]


def in_snapshot(found: Snapshot) -> set[str]:
    paths = [path.relative_to(found.folder).as_posix() for path in found.folder.rglob("*") if path.is_file()]
    return set(paths) - {".gitattributes"}


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


# Connections that break


def test_a_download_goes_on_where_the_connection_broke(running: Hub) -> None:
    running.breaks[VAE] = [3000, 0, 4000]
    assert fetch(need()).weights[0].read_bytes() == FILES[VAE]
    assert [sent.start for sent in running.downloads(VAE)] == [0, 3000, 3000, 7000]


def test_a_download_goes_on_when_the_connection_was_reset(running: Hub) -> None:
    running.reset = True  # which may lose what is under way
    running.breaks[VAE] = [3000, 4000]
    assert fetch(need()).weights[0].read_bytes() == FILES[VAE]
    assert len(running.downloads(VAE)) == 3


def test_a_download_goes_on_as_long_as_something_comes(running: Hub) -> None:
    times = download.TRIES + 2
    running.failing = [503, 200] * times
    running.breaks[VAE] = [1000] * times
    assert fetch(need()).weights[0].read_bytes() == FILES[VAE]
    assert [sent.start for sent in running.downloads(VAE)] == [1000 * n for n in range(times + 1)]


def test_a_busy_store_is_asked_again(running: Hub) -> None:
    running.failing = [503, 500]
    assert fetch(need()).weights[0].read_bytes() == FILES[VAE]


def test_what_has_come_is_kept_when_the_connection_stays_broken(running: Hub) -> None:
    running.breaks[VAE] = [5000] + [0] * 100
    sentence = r"^m: the connection to the hub http://.* broke at 0\.00 of 0\.00 GB of vae/.* `./kinoray prefetch m`"
    with pytest.raises(WeightsUnavailable, match=sentence):
        fetch(need())
    assert 5 < len(running.downloads(VAE)) < 50
    running.breaks.clear()
    running.sent.clear()
    lack = in_cache(need())
    assert isinstance(lack, Lack)
    assert hub.bytes_to_come(lack.files) == len(FILES[VAE]) - 5000
    assert fetch(need()).weights[0].read_bytes() == FILES[VAE]
    assert [sent.start for sent in running.downloads(VAE)] == [5000]


def test_a_store_that_sends_no_parts_sends_the_whole(running: Hub) -> None:
    running.ranges = False
    running.breaks[VAE] = [3000]
    assert fetch(need()).weights[0].read_bytes() == FILES[VAE]
    assert [sent.start for sent in running.downloads(VAE)] == [0, 0]


@pytest.mark.parametrize("left", [b"\0" * 5000, b"\0" * len(FILES[VAE]), b"\0" * 2 * len(FILES[VAE])])
def test_a_partial_file_that_was_spoiled_does_not_count(running: Hub, left: bytes) -> None:
    running.breaks[VAE] = [0] * 100
    with pytest.raises(WeightsUnavailable):
        fetch(need())
    running.breaks.clear()
    lack = in_cache(need())
    assert isinstance(lack, Lack)
    partial = download.partial_path(lack.files[0])
    partial.write_bytes(left)
    if len(left) <= len(FILES[VAE]):
        with pytest.raises(WeightsUnavailable, match=r"^m: vae/.* did not survive an interruption and was removed"):
            fetch(need())
        assert not partial.exists()
    assert fetch(need()).weights[0].read_bytes() == FILES[VAE]


def test_a_killed_process_leaves_what_it_got(running: Hub, tmp_path: Path) -> None:
    content = os.urandom(24 * 2**20)
    running.push(REPO, {**FILES, VAE: content})
    running.open.clear()
    running.holds[VAE] = 12 * 2**20
    first = start(running, tmp_path)
    blobs = tmp_path / "hub" / "models--maker--video" / "blobs"
    until(lambda: any(each.stat().st_size >= 10 * 2**20 for each in blobs.glob("*.incomplete")), "half has come")
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    running.holds.clear()
    running.open.set()
    running.sent.clear()
    assert start(running, tmp_path).wait(DEADLINE_S) == 0
    (sent,) = running.downloads(VAE)
    assert sent.start >= 10 * 2**20
    assert fetch(need()).weights[0].read_bytes() == content


@pytest.mark.parametrize("count", [2, pytest.param(8, marks=pytest.mark.long)])
def test_processes_fetch_each_file_once(running: Hub, tmp_path: Path, count: int) -> None:
    running.open.clear()
    processes = [start(running, tmp_path) for _ in range(count)]
    heads = [f"/{REPO}/resolve/{main(running)}/{VAE}", "HEAD"]
    until(lambda: sum([each.path, each.method] == heads for each in list(running.requests)) >= count, "all ask")
    running.open.set()  # all of them want the file now, and none has it
    assert [process.wait(DEADLINE_S) for process in processes] == [0] * count
    assert len(running.downloads(VAE)) == 1
    assert len(running.downloads("vae/config.json")) == 1
    assert in_snapshot(fetch(need())) == {VAE, "vae/config.json"}


def test_processes_without_locks_end_well(running: Hub, tmp_path: Path) -> None:
    # As on a file system that grants every lock: each of them gets the file, and it is the right one.
    running.open.clear()
    without = (
        "import contextlib, huggingface_hub.utils, huggingface_hub.file_download as f;"
        "huggingface_hub.utils.WeakFileLock = f.WeakFileLock = lambda *_, **__: contextlib.nullcontext();"
    )
    processes = [start(running, tmp_path, without) for _ in range(3)]
    until(lambda: sum(each.store for each in list(running.requests)) >= 3, "all three fetch")
    running.open.set()
    assert [process.wait(DEADLINE_S) for process in processes] == [0] * 3
    assert fetch(need()).weights[0].read_bytes() == FILES[VAE]


def start(running: Hub, home: Path, before: str = "") -> subprocess.Popen[bytes]:
    code = f"{before}from pipelines.weights.hub import Need, fetch; fetch(Need('m', '{REPO}', None, 'vae'))"
    environment = {**os.environ, **running.environment(home)}
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment)


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


# A cache without symbolic links


def test_without_links_a_file_takes_its_place_in_one_step(running: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    linked = fetch(need())
    linked.weights[0].unlink()
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", True)
    monkeypatch.setattr(shutil, "copyfile", copy := Copies())
    running.sent.clear()
    assert fetch(need()) == linked
    assert running.sent == []  # from the blob, to which other files may link
    blobs = Path(constants.HF_HUB_CACHE) / "models--maker--video" / "blobs"
    assert [target.parent for target in copy.targets] == [blobs]
    before = {each.name for each in blobs.iterdir()}
    (path,) = fetch(need(variant="fp16")).weights
    assert (path.is_symlink(), path.read_bytes()) == (False, FILES[FP16])
    assert {each.name for each in blobs.iterdir()} == before
    assert len(copy.targets) == 1
    assert not [shard for shard in fetch(need("text_encoder")).weights if shard.is_symlink()]  # in a new folder
    running.requests.clear()
    assert fetch(need(variant="fp16")).weights == (path,)
    assert running.requests == []


class Copies:
    """Copies files, and knows where to."""

    def __init__(self) -> None:
        self.targets: list[Path] = []

    def __call__(self, source: Path, target: Path) -> None:
        self.targets.append(target)
        target.write_bytes(source.read_bytes())


def test_a_file_that_another_process_repairs_meanwhile_is_left_to_it(running: Hub) -> None:
    (path,) = fetch(need()).weights
    blob = path.resolve()
    path.unlink()
    path.write_bytes(FILES[VAE][:17])
    running.requests.clear()
    running.sent.clear()
    lock = Path(constants.HF_HUB_CACHE) / ".locks" / "models--maker--video" / f"{blob.name}.lock"
    with ThreadPoolExecutor() as pool:
        with WeakFileLock(lock):
            other = pool.submit(fetch, need())
            until(lambda: any(request.method == "HEAD" for request in list(running.requests)), "it asks")
            path.write_bytes(FILES[VAE])
            blob.unlink()
        assert other.result().weights == (path,)
    assert not path.is_symlink()
    assert running.sent == []


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
