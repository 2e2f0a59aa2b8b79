"""Calls of a replica of the API over HTTP, and a video of it that is completed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2

from deployments import api
from deployments.http.contents import VARIANTS
from jobs.leases import Leases, Rendered
from jobs.stored import ResultMetadata
from tests.unit.api_world import ApiWorld, run_api

DEADLINE_S = 60.0
VIDEO = bytes(range(100))
"""What stands for an mp4."""

Calls = Callable[[httpx2.AsyncClient, ApiWorld], Awaitable[None]]


def talk(folder: Path, calls: Calls, *, root_path: str = "", **settings: Any) -> None:
    """Make calls of a replica that stands under `root_path`, as behind Serve's proxy; paths are given with it."""

    async def main() -> None:
        with run_api(folder, **settings) as world:
            transport = httpx2.ASGITransport(app=api.app, root_path=root_path, raise_app_exceptions=False)
            client = httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1")
            async with client as http, asyncio.timeout(DEADLINE_S):
                await calls(http, world)

    asyncio.run(main())


async def sent(method: str, path: str) -> list[dict[str, Any]]:
    """What a replica sends to a request's server, which may leave some of it out."""
    messages: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        messages.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope: Any = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "1.1", "method": method,
        "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
        "headers": [(b"host", b"127.0.0.1")], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
    }  # fmt: skip
    await api.app(scope, receive, send)
    return messages


async def completed(http: httpx2.AsyncClient, world: ApiWorld, prefix: str = "", **headers: str) -> str:
    """The id of a video that is completed, with files that hold `VIDEO`."""
    created = await http.post(f"{prefix}/v1/videos", json={"prompt": "p"}, headers=headers)
    video_id: str = created.json()["id"]
    leases = Leases(world.api.jobs._database)
    (claimed,) = leases.claim("ltx-tiny", owner="c", lease_s=60.0, max_attempts=3, capacity=1)
    assert claimed.id == video_id
    assert claimed.lease_token is not None
    assert leases.complete({claimed.lease_token: Rendered({}, ResultMetadata())})
    for key_of, _ in VARIANTS.values():
        world.api.contents._store.put(key_of(claimed), VIDEO)
    return video_id
