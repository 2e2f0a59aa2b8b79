"""What a bucket that fails costs: `make storage-faults`. A service renders on while the way to its bucket is spoilt.

For each fault some jobs are accepted while it lasts; all must wait in the leg `publish`, and be whole once it is over.
So must an object that is large enough to go in parts, which is sent again and again meanwhile.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import psutil
from botocore.exceptions import BotoCoreError, ClientError

from benchmarks.bucket_server import ACCESS_KEY, BUCKET, SECRET_KEY, BucketServer, run_bucket_server
from benchmarks.chaos.verdict import FILES
from benchmarks.faulty_network import Fault, FaultyNetwork
from benchmarks.processes import until
from deployments.config import load_config
from deployments.service import default_config, for_model, free_port, run_service
from storage.bucket import BucketStore
from storage.errors import StorageUnavailable
from storage.settings import MIB, BucketSettings

JOBS, OUTAGE_S, DEADLINE_S = 4, 15.0, 300.0
PREFIX = "service/"
LARGE_MIB, LARGE_BOUND_MIB = 1024, 100
PARTS_MIB = 21
"""Of the object that goes in parts beside the jobs' small ones."""
REQUEST = {"prompt": "a red circle moves left on a black background", "seed": 1}


@dataclass(slots=True)
class Row:
    """What became of the jobs that were accepted during one fault, and of the object in parts."""

    fault: str
    accepted: int = 0
    lost: int = 0
    again: int = 0  # attempts beyond the first
    doubled: int = 0  # files too many
    partial: int = 0  # files that could be seen and were not whole
    unfinished: int = 0  # uploads that nobody completed or aborted
    waited_s: float = 0.0  # from the end of the fault to the last video

    @property
    def good(self) -> bool:
        return not (self.lost or self.again or self.doubled or self.partial or self.unfinished)

    def __str__(self) -> str:
        cells = (self.accepted, self.lost, self.again, self.doubled, self.partial, self.unfinished)
        verdict = "good" if self.good else "LOST"
        return f"| {self.fault} | {' | '.join(map(str, cells))} | {self.waited_s:.1f} | {verdict} |"


def bucket_config(network: FaultyNetwork) -> dict[str, Any]:
    """configs/local.yaml for ltx-tiny, with a bucket behind the network, and much that it writes there."""
    config = for_model(load_config(default_config()), "ltx-tiny", with_image=True)
    config["http_options"]["port"] = free_port()
    (application,) = config["applications"]
    bucket = {"name": BUCKET, "prefix": PREFIX, "endpoint_url": network.url, "path_style": True}
    bucket["folders"] = "{model}/{id}"
    application["args"].update(bucket=bucket, lease_s=3, checkpoint_every_s=0.2, sweep_every_s=0.5)
    return config


def objects(server: BucketServer, prefix: str) -> dict[str, str]:
    """What is in the bucket under a prefix of the service's: names and ETags, which are digests of small objects."""
    start = PREFIX + prefix
    pages = server.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=start)
    return {each["Key"].removeprefix(start): each["ETag"] for page in pages for each in page.get("Contents", [])}


def folder_of(video: Mapping[str, Any]) -> str:
    return f"videos/{video['model']}/{video['id']}/"


def unfinished_uploads(server: BucketServer, prefix: str = PREFIX) -> list[str]:
    """Uploads that were begun and neither completed nor aborted, whose parts somebody pays for."""
    answer = server.client.list_multipart_uploads(Bucket=BUCKET, Prefix=prefix)
    return [each["Key"] for each in answer.get("Uploads", [])]


@contextmanager
def credentials() -> Iterator[None]:
    """The environment of one who may use the server."""
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_EC2_METADATA_DISABLED")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(zip(names, (ACCESS_KEY, SECRET_KEY, "true"), strict=True))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def extra_memory(settings: BucketSettings, folder: Path) -> float:
    """MiB by which this process grows while it stores a file of a gibibyte."""
    file, end, peak = folder / "large", threading.Event(), 0.0
    with file.open("wb") as large:
        for _ in range(LARGE_MIB // 16):
            large.write(os.urandom(MIB) * 16)
    store, process = BucketStore(settings), psutil.Process()

    def watch() -> None:
        nonlocal peak
        while not end.wait(0.02):
            peak = max(peak, process.memory_info().rss)

    before = process.memory_info().rss
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        store.put("large/gibibyte", file)
    finally:
        end.set()
        watcher.join()
    store.delete("large/gibibyte")
    file.unlink()
    return (peak - before) / MIB


def main() -> None:
    """Print the table; exit with 1 when something was lost."""
    with (
        credentials(),
        tempfile.TemporaryDirectory() as folder,
        run_bucket_server() as server,
        FaultyNetwork(server.port) as network,
    ):
        grown = extra_memory(_settings(server.url), Path(folder))  # first, while this process is small
        with (
            run_service(bucket_config(network), data=Path(folder) / "data", private=True, graceful=False) as url,
            httpx2.Client(base_url=url, timeout=60, trust_env=False) as http,
        ):
            first = _finished(http, _create(http))
            whole = objects(server, folder_of(first))
            faults: dict[str, AbstractContextManager[None]] = {
                fault.value: network.spoilt(fault) for fault in Fault if fault is not Fault.NONE
            }
            faults["the server killed, and started again"] = killed(server)
            print(
                f"| for {OUTAGE_S:.0f} s: | accepted | lost | attempts too many | files too many | seen half "
                "| uploads left open | seconds until all were there | |\n|---|---|---|---|---|---|---|---|---|"
            )
            rows = []
            for name, fault in faults.items():
                rows.append(_suffer(name, fault, http, server, whole, network.url))
                print(rows[-1], flush=True)
    print(
        f"An object of {LARGE_MIB} MiB was stored with {grown:.0f} MiB of extra memory; {LARGE_BOUND_MIB} are allowed."
    )
    if grown > LARGE_BOUND_MIB or not all(row.good for row in rows):
        raise SystemExit("a promise was broken")


def _settings(url: str) -> BucketSettings:
    return BucketSettings(
        name=BUCKET, prefix=PREFIX, endpoint_url=url, path_style=True, multipart_threshold_mib=PARTS_MIB
    )


def _suffer(
    name: str,
    fault: AbstractContextManager[None],
    http: httpx2.Client,
    server: BucketServer,
    whole: Mapping[str, str],
    url: str,
) -> Row:
    row = Row(name)
    with ThreadPoolExecutor(1) as pool:
        with fault:
            began = time.monotonic()
            large = pool.submit(_put_in_parts, server, url)
            jobs = [_create(http) for _ in range(JOBS)]
            for job in jobs:
                _until(http, job, lambda video: video["leg"] == "publish")
            time.sleep(max(OUTAGE_S - (time.monotonic() - began), 0))  # how long it lasts is what is tried
        over = time.monotonic()
        row.accepted = len(jobs)
        waiting = {job["id"] for job in jobs}
        while waiting and time.monotonic() < over + DEADLINE_S:
            for job_id in sorted(waiting):
                video = http.get(f"/v1/videos/{job_id}").json()
                there = objects(server, folder_of(video))
                row.partial += sum(
                    there[file] != whole[file] for file in there.keys() & whole.keys() - {"metadata.json"}
                )
                if video["status"] in ("completed", "failed"):
                    waiting.remove(job_id)
                    row.lost += video["status"] == "failed" or there.keys() != FILES
                    row.again += video["attempts"] - 1
                    row.doubled += len(there.keys() - FILES)
        row.waited_s = time.monotonic() - over
        row.lost += len(waiting)
        seen_half, lost = large.result(DEADLINE_S)
    row.partial += seen_half
    row.lost += lost
    BucketStore(_settings(server.url)).abandon(-60)  # the sweeper's, without its patience; the server counts seconds
    row.unfinished = len(unfinished_uploads(server))
    return row


def _put_in_parts(server: BucketServer, url: str) -> tuple[int, int]:
    """Store an object as a publisher does, again until it is there; how often it was seen half, and 1 if it is lost."""
    data, key, half = os.urandom(PARTS_MIB * MIB), "uploads/parts", 0
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        try:
            BucketStore(_settings(url), hurried=True).put(key, data)
        except StorageUnavailable:
            time.sleep(1)  # a publisher's first pause
            half += _size(server, PREFIX + key) not in (None, len(data))
        else:
            stored = server.client.get_object(Bucket=BUCKET, Key=PREFIX + key)["Body"].read()
            server.client.delete_object(Bucket=BUCKET, Key=PREFIX + key)
            return half, int(stored != data)
    return half, 1


def _size(server: BucketServer, key: str) -> int | None:
    """Of what can be seen, of a server that may be dead."""
    try:
        size: int = server.client.head_object(Bucket=BUCKET, Key=key)["ContentLength"]
    except (BotoCoreError, ClientError):
        return None
    return size


@contextmanager
def killed(server: BucketServer) -> Iterator[None]:
    """A server that is dead for a while."""
    server.kill()
    try:
        yield
    finally:
        server.start()


def _create(http: httpx2.Client) -> dict[str, Any]:
    answer = http.post("/v1/videos", json=REQUEST)
    answer.raise_for_status()
    video: dict[str, Any] = answer.json()
    return video


def _finished(http: httpx2.Client, job: dict[str, Any]) -> dict[str, Any]:
    return _until(http, job, lambda video: video["status"] in ("completed", "failed"))


def _until(http: httpx2.Client, job: dict[str, Any], reached: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    seen: dict[str, Any] = {}

    def there() -> bool:
        seen.update(http.get(f"/v1/videos/{job['id']}").json())
        return reached(seen)

    until(there, f"what {job['id']} was to reach", DEADLINE_S)
    return seen


if __name__ == "__main__":
    main()
