"""The API with its real routes and its real job store, without Ray Serve around it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from ray import serve

from deployments import api
from deployments.configuration.settings import Settings


class Remote:
    """A conductor's handle: being told of a job is all that the API asks of it."""

    def __init__(self) -> None:
        self.notified = 0
        self.notify = self

    def remote(self) -> None:
        self.notified += 1


@dataclass(slots=True)
class ApiWorld:
    """One replica of the API."""

    api: Any
    conductor: Remote

    def http(self) -> httpx2.AsyncClient:
        """A client of it; its calls run on the caller's event loop."""
        return httpx2.AsyncClient(transport=httpx2.ASGITransport(app=api.app), base_url="http://127.0.0.1")

    async def ask(
        self, method: str, path: str, receive: Callable[[], Any], **headers: str
    ) -> tuple[int, dict[str, str]]:
        """One request whose body the server has to ask for; returns the status and the headers of the answer."""
        sent: list[dict[str, Any]] = []

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        given = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
            "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
            "headers": [(b"host", b"127.0.0.1"), *given],
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
        }  # fmt: skip
        await api.app(scope, receive, send)  # type: ignore[arg-type]
        start = sent[0]
        return start["status"], {name.decode(): value.decode() for name, value in start["headers"]}


@contextmanager
def run_api(folder: Path, **settings: Any) -> Iterator[ApiWorld]:
    """A replica with a job store of its own in `folder`; `settings` as in the application's `args`."""
    switch_s = sys.getswitchinterval()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KINORAY_DATA", str(folder))
        patch.delenv("KINORAY_DATABASE_URL", raising=False)
        client = SimpleNamespace(http_config=SimpleNamespace(host="127.0.0.1"))
        deployment: Any = api.Api
        replica = deployment.func_or_class.__mro__[1]  # without the wrapper of Serve, which has copied its globals
        patch.setitem(replica.__init__.__globals__, "_get_global_client", lambda: client)
        given = Settings(**{"models": ("ltx-tiny",), **settings})
        conductor = Remote()
        made = replica(given, conductor)
        patch.setattr(serve, "get_replica_context", lambda: SimpleNamespace(servable_object=made))
        try:
            yield ApiWorld(made, conductor)
        finally:
            sys.setswitchinterval(switch_s)


async def until(reached: Callable[[], bool], deadline_s: float = 60.0) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(deadline_s):
        while not reached():  # noqa: ASYNC110 - of any kind of state
            await asyncio.sleep(0.002)
