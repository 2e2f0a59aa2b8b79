"""The bucket store against boto3 alone, on one server, in turns: `make bench-storage`.

Both send SHA-256 checksums. Ours also asks whether the object is there already, and afterwards what was stored.
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

from benchmarks.bucket_server import BUCKET, run_bucket_server
from benchmarks.storage_faults import credentials
from storage.bucket import BucketStore, connect, transfer_config
from storage.settings import MIB, BucketSettings

BOUND = 0.95
SIZES = ((1, 60), (16, 20), (64, 12), (512, 6))
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
                theirs_s, ours_s = _in_turns(theirs, ours, rounds, fresh=what == "upload")
                ratio = theirs_s / ours_s
                worst = min(worst, ratio)
                speeds = f"{mib / theirs_s:.0f} MiB/s | {mib / ours_s:.0f} MiB/s"
                print(f"| {mib} MiB | {what} | {speeds} | {ratio:.3f} | >= {BOUND} |", flush=True)
            file.unlink()
            store.delete_prefix("bench/")
    print("Medians of runs in turns, ours and boto3's first by turns.")
    if worst < BOUND:
        raise SystemExit("a bound is missed")


def _uploads(client: Any, file: Path, config: TransferConfig) -> Callable[[str], Any]:
    extra = {"ChecksumAlgorithm": "SHA256"}
    return lambda key: client.upload_file(str(file), BUCKET, key, ExtraArgs=extra, Config=config)


def _downloads(client: Any, config: TransferConfig) -> Callable[[str], Any]:
    return lambda key: client.download_fileobj(BUCKET, key, io.BytesIO(), Config=config)


def _in_turns(
    theirs: Callable[[str], Any], ours: Callable[[str], Any], rounds: int, *, fresh: bool
) -> tuple[float, float]:
    """Median seconds of each. Uploads go to a new key each time; a download reads what the last upload left."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds):
        for side in ((0, 1), (1, 0))[turn % 2]:
            key = f"bench/{turn}-{side}" if fresh else "bench/0-0"
            started = time.perf_counter()
            (theirs, ours)[side](key)
            seconds[side].append(time.perf_counter() - started)
    return statistics.median(seconds[0]), statistics.median(seconds[1])


if __name__ == "__main__":
    main()
