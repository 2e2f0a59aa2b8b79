"""Downloads that are interrupted, beside each other, or into a cache without links, over real HTTP."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import WeakFileLock

from pipelines.errors import WeightsUnavailable
from pipelines.paths import ROOT
from pipelines.weights import download, hub
from pipelines.weights.hub import Lack, fetch, in_cache
from tests.harness.hub import Hub
from tests.harness.processes import until
from tests.unit.hub_world import FILES, FP16, REPO, VAE, in_snapshot, main, need, quick_hub

DEADLINE_S = 60


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with quick_hub(tmp_path, monkeypatch) as running:
        yield running


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
