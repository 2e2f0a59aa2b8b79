"""The bucket store against boto3 alone, on one server, in turns: `make bench-storage`.

Both send SHA-256 checksums. Ours also changes nothing where the object is there already, and sees what was stored.
"""

from __future__ import annotations

import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from boto3.s3.transfer import TransferConfig

from storage.bucket import BucketStore
from storage.client import connect, transfer_config
from storage.settings import MIB, BucketSettings
from tests.harness.bucket import credentials
from tests.harness.bucket_server import BUCKET, run_bucket_server

BOUND = 0.95
SIZES = ((1, 100), (16, 40), (64, 30), (512, 10))
"""MiB, and how often each side is timed."""


def main() -> None:
    """Print the table; exit with 1 when a ratio is below the bound."""
    worst = 1.0
    print("| object | | boto3 | Kinoray | ratio | bound |\n|---|---|---|---|---|---|")
    with credentials(), run_bucket_server() as server, tempfile.TemporaryDirectory() as folder:
        settings = BucketSettings(name=BUCKET, endpoint_url=server.url, path_style=True)
        store, client = BucketStore(settings), connect(settings, server.url)
        config = transfer_config(settings)
        for mib, rounds in SIZES:
            file = Path(folder) / f"{mib}"
            file.write_bytes(os.urandom(mib * MIB))
            pairs: dict[str, tuple[Callable[[str], Any], Callable[[str], Any]]] = {
                "upload": (_uploads(client, file, config), lambda key, file=file: store.put(key, file)),  # type: ignore[misc]
                "download": (_downloads(client, config), store.get),
            }
            for what, (theirs, ours) in pairs.items():
                theirs_s, ours_s, ratio = _in_turns(theirs, ours, rounds, fresh=what == "upload")
                worst = min(worst, ratio)
                speeds = f"{mib / theirs_s:.0f} MiB/s | {mib / ours_s:.0f} MiB/s"
                print(f"| {mib} MiB | {what} | {speeds} | {ratio:.3f} | >= {BOUND} |", flush=True)
            file.unlink()
            store.delete_prefix("bench/")
    print("Medians of runs in turns, ours and boto3's first by turns; the ratio is that of a pair.")
    if worst < BOUND:
        raise SystemExit("a bound is missed")


def _uploads(client: Any, file: Path, config: TransferConfig) -> Callable[[str], Any]:
    extra = {"ChecksumAlgorithm": "SHA256"}
    return lambda key: client.upload_file(str(file), BUCKET, key, ExtraArgs=extra, Config=config)


def _downloads(client: Any, config: TransferConfig) -> Callable[[str], Any]:
    return lambda key: client.download_fileobj(BUCKET, key, io.BytesIO(), Config=config)


def _in_turns(
    theirs: Callable[[str], Any], ours: Callable[[str], Any], rounds: int, *, fresh: bool
) -> tuple[float, float, float]:
    """Median seconds of each, and the median ratio. Uploads go to new keys; a download reads what ours left."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds):
        for side in ((0, 1), (1, 0))[turn % 2]:
            key = f"bench/{turn}-{side}" if fresh else "bench/0-1"
            started = time.perf_counter()
            (theirs, ours)[side](key)
            seconds[side].append(time.perf_counter() - started)
    ratios = [theirs_s / ours_s for theirs_s, ours_s in zip(*seconds, strict=True)]
    return statistics.median(seconds[0]), statistics.median(seconds[1]), statistics.median(ratios)


if __name__ == "__main__":
    main()
