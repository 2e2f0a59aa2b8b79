"""An API with keys and limits, which the service that all tests share has not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import uvicorn

from deployments.api import app
from deployments.configuration.api_keys import ApiKey, KeyLimits, digest
from tests.unit.api_world import run_api


@dataclass(frozen=True, slots=True)
class Limited:
    """The address of an API, and its keys: each takes one request a minute."""

    url: str
    keys: dict[str, str]


@pytest.fixture(scope="session")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Limited]:
    keys = {name: f"a-key-for-{name}" for name in ("python", "node")}
    one_a_minute = KeyLimits(requests_per_minute=1)
    known = [ApiKey(name=name, sha256=digest(key).hex(), limits=one_a_minute) for name, key in keys.items()]
    with run_api(tmp_path_factory.mktemp("limited"), api_keys=known, allowed_hosts=["127.0.0.1"]):
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", lifespan="off", ws="none"))
        socket = server.config.bind_socket()
        thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]})
        thread.start()
        try:
            yield Limited(f"http://127.0.0.1:{socket.getsockname()[1]}", keys)
        finally:
            server.should_exit = True
            thread.join()
            socket.close()
