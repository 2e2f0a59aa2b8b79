"""A light HTTP client that makes load, as a process of its own: it runs what stdin says and prints what came of it.

Connections stay open and each carries one request at a time. A request of an open loop counts from the moment at which
it was due, whether a connection was free or not: so a server that answers late does not slow its own load.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

UNANSWERED_S = 60.0


@dataclass(frozen=True, slots=True)
class Load:
    """One kind of request and how it comes.

    Without a rate, each connection sends its next request once it has its answer; with one, requests are due evenly.
    """

    name: str
    method: str
    paths: list[str]
    """In turns."""
    body: str = ""
    connections: int = 16
    rate: float | None = None
    """Requests a second."""


@dataclass(slots=True)
class Outcome:
    """The answers to a load."""

    statuses: dict[str, int]
    """By status, with `overloaded` for a deliberate refusal and `lost` for a connection that broke or was too slow."""
    seconds: list[float]
    """Of each request, by any answer."""
    accepted: list[float] = field(default_factory=list)
    """Of each request that was answered with 200."""
    ids: list[str] = field(default_factory=list)
    """The jobs that were created."""


class _Connection:
    """One kept connection. It is opened when it is first used, and again after it broke."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Send a request; returns the status and the body."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._streams
        try:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            fields = head.lower()
            if (at := fields.find(b"content-length:")) >= 0:
                body = await reader.readexactly(int(fields[at + 15 : fields.index(b"\r\n", at)]))
            else:
                body = b""
                while size := int(await reader.readline(), 16):
                    body += (await reader.readexactly(size + 2))[:-2]
                await reader.readline()
            if b"connection: close" in fields:
                self.close()
            return int(head[9:12]), body
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def run(load: Load, host: str, port: int, for_s: float) -> Outcome:
    """Make a load for a time."""
    requests = [_request(load, path, f"{host}:{port}") for path in load.paths]
    statuses: Counter[str] = Counter()
    outcome = Outcome({}, [])
    began_at = time.perf_counter()
    sent = 0

    async def one(connection: _Connection, due_at: float, request: bytes) -> None:
        try:
            async with asyncio.timeout(UNANSWERED_S):
                status, body = await connection.ask(request)
        except (OSError, EOFError, ValueError, TimeoutError):
            statuses["lost"] += 1
            return
        took_s = time.perf_counter() - due_at
        outcome.seconds.append(took_s)
        refused = status == 503 and b'"overloaded"' in body
        statuses["overloaded" if refused else str(status)] += 1
        if status == 200:
            outcome.accepted.append(took_s)
            if load.method == "POST" and body.startswith(b'{"id":"video_'):
                outcome.ids.append(body[7 : body.index(b'"', 7)].decode())

    async def connected() -> None:
        nonlocal sent
        connection = _Connection(host, port)
        while True:
            number = sent
            due_at = time.perf_counter() if load.rate is None else began_at + number / load.rate
            if due_at - began_at >= for_s:
                break
            sent += 1
            if (early_s := due_at - time.perf_counter()) > 0:
                await asyncio.sleep(early_s)
            await one(connection, due_at, requests[number % len(requests)])
        connection.close()

    await asyncio.gather(*(connected() for _ in range(load.connections)))
    outcome.statuses = dict(statuses)
    return outcome


async def follow(paths: list[str], host: str, port: int) -> None:
    """Hold event streams open."""

    async def stream(path: str) -> None:
        reader, writer = await asyncio.open_connection(host, port)
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nhost: {host}:{port}\r\naccept: text/event-stream\r\n\r\n".encode())
            while await reader.read(65536):
                pass
        finally:
            writer.close()

    await asyncio.gather(*(stream(path) for path in paths))


async def serve(asked: dict[str, Any]) -> dict[str, Any]:
    """Run all loads of a phase side by side, with event streams if any are asked for."""
    host, port = asked["host"], asked["port"]
    streams = asyncio.create_task(follow(asked["streams"], host, port))
    await asyncio.sleep(asked["settle_s"])
    loads = [Load(**each) for each in asked["loads"]]
    outcomes = await asyncio.gather(*(run(load, host, port, asked["for_s"]) for load in loads))
    broken = streams.done() and bool(asked["streams"])
    streams.cancel()
    await asyncio.wait([streams])
    named = {load.name: asdict(outcome) for load, outcome in zip(loads, outcomes, strict=True)}
    return {"outcomes": named, "streams_broke": broken}


def _request(load: Load, path: str, host: str) -> bytes:
    head = f"{load.method} {path} HTTP/1.1\r\nhost: {host}\r\n"
    if load.method == "POST":
        head += f"content-type: application/json\r\ncontent-length: {len(load.body)}\r\n"
    return f"{head}\r\n{load.body}".encode()


if __name__ == "__main__":
    print(json.dumps(asyncio.run(serve(json.load(sys.stdin)))))
