"""What a bucket that fails costs: `make storage-faults`. A service renders on while the way to its bucket is spoilt.

For each fault some jobs are accepted while it lasts; all must wait in `publish`, and be whole once it is over.
So must an object that is large enough to go in parts, which is sent again and again meanwhile.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from botocore.exceptions import BotoCoreError, ClientError

from cli.service import run_service
from storage.bucket import BucketStore
from storage.errors import StorageUnavailable
from storage.settings import MIB, BucketSettings
from tests.harness.bucket import (
    LARGE_BOUND_MIB,
    LARGE_MIB,
    PREFIX,
    bucket_config,
    credentials,
    extra_memory,
    folder_of,
    killed,
    objects,
    unfinished_uploads,
)
from tests.harness.bucket_server import BUCKET, BucketServer, run_bucket_server
from tests.harness.chaos.verdict import FILES
from tests.harness.faulty_network import Fault, FaultyNetwork
from tests.harness.processes import until

JOBS, OUTAGE_S, DEADLINE_S = 4, 15.0, 300.0
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
                _until(http, job, lambda video: video["stage"] == "publish")
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
            BucketStore(_settings(url), fail_fast=True).put(key, data)
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
