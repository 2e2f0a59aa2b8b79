"""A service whose artifacts are in a bucket: its config, and what is found there."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from cli.service import default_config, for_model, free_port
from deployments.configuration.serve_config import load_config
from storage.bucket import BucketStore
from storage.settings import MIB, BucketSettings
from tests.harness.bucket_server import ACCESS_KEY, BUCKET, SECRET_KEY, BucketServer
from tests.harness.faulty_network import FaultyNetwork

PREFIX = "service/"
LARGE_MIB, LARGE_BOUND_MIB = 1024, 100


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


@contextmanager
def killed(server: BucketServer) -> Iterator[None]:
    """A server that is dead for a while."""
    server.kill()
    try:
        yield
    finally:
        server.start()
