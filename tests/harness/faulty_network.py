"""A TCP proxy that spoils the way to a server: what networks, load balancers and overloaded buckets do to a client."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from types import TracebackType
from typing import Self

CHUNK = 64 * 1024
REQUEST_BYTES, ANSWER_BYTES = 4096, 300
"""How much of a connection gets through before it is reset, or before its answers are cut off."""
SEND_RST = struct.pack("ii", 1, 0)


class Fault(StrEnum):
    """What happens to every connection while it lasts."""

    NONE = "none"
    REFUSED = "connection refused"
    RESET = "reset in the middle of a part"
    STALLED = "stalled"
    SLOW_DOWN = "503 SlowDown"
    FORBIDDEN = "403 AccessDenied"
    PAGE = "200 with a page of a load balancer"
    TRUNCATED = "answers cut off"


_ERROR = "<?xml version='1.0'?><Error><Code>{0}</Code><Message>{0}</Message></Error>"
_ANSWERS = {
    Fault.SLOW_DOWN: (503, "SlowDown", "application/xml", _ERROR.format("SlowDown")),
    Fault.FORBIDDEN: (403, "AccessDenied", "application/xml", _ERROR.format("AccessDenied")),
    Fault.PAGE: (200, "OK", "text/html", "<html><p>We are back soon.</html>"),
}


class FaultyNetwork:
    """Listens on the loopback interface and passes everything on to a port of it, as far as `fault` lets it."""

    def __init__(self, to_port: int) -> None:
        self.fault = Fault.NONE
        self._to_port = to_port
        self._server = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._left: int | None = None

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        self._reset_all()

    @contextmanager
    def spoilt(self, fault: Fault, connections: int | None = None) -> Iterator[None]:
        """Let a fault happen for a while, to the connections that are open already too; or to the next few only."""
        self.fault, self._left = fault, connections
        self._reset_all()
        try:
            yield
        finally:
            self.fault = Fault.NONE
            self._reset_all()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return  # closed
            fault = self.fault if self._left != 0 else Fault.NONE
            if self._left:
                self._left -= 1
            threading.Thread(target=self._serve, args=(client, fault), daemon=True).start()

    def _serve(self, client: socket.socket, fault: Fault) -> None:
        with self._lock:
            self._open.add(client)
        if fault is Fault.REFUSED:
            self._reset(client)
        elif fault in _ANSWERS:
            self._answer(client, *_ANSWERS[fault])
        elif fault is not Fault.STALLED:  # which is never read, and stays open
            self._pass_on(client, fault)

    def _pass_on(self, client: socket.socket, fault: Fault) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self._to_port))
        except OSError:
            self._reset(client)
            return
        with self._lock:
            self._open.add(server)
        request = REQUEST_BYTES if fault is Fault.RESET else None
        answer = ANSWER_BYTES if fault is Fault.TRUNCATED else None
        there = threading.Thread(target=self._copy, args=(client, server, request), daemon=True)
        there.start()
        self._copy(server, client, answer)
        there.join()
        for each in (client, server):
            self._reset(each)

    def _copy(self, source: socket.socket, sink: socket.socket, at_most: int | None) -> None:
        """One direction of a connection, which breaks after `at_most` bytes."""
        passed = 0
        try:
            while data := source.recv(CHUNK):
                if at_most is not None and passed + len(data) > at_most:
                    sink.sendall(data[: at_most - passed])
                    self._reset(source)
                    self._reset(sink)
                    return
                sink.sendall(data)
                passed += len(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # one of the two is gone

    def _answer(self, client: socket.socket, status: int, reason: str, kind: str, body: str) -> None:
        """Answer once the request's head is there."""
        head = f"HTTP/1.1 {status} {reason}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n"
        try:
            client.recv(CHUNK)
            client.sendall(f"{head}connection: close\r\n\r\n{body}".encode())
            client.shutdown(socket.SHUT_WR)
            client.settimeout(1)
            while client.recv(CHUNK):
                pass  # a close with something unread would take the answer back
        except OSError:
            pass
        self._reset(client)

    def _reset_all(self) -> None:
        with self._lock:
            each_open = list(self._open)
        for each in each_open:
            self._reset(each)

    def _reset(self, each: socket.socket) -> None:
        with self._lock:
            if each not in self._open:
                return
            self._open.remove(each)
        try:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, SEND_RST)
            each.shutdown(socket.SHUT_RD)  # wakes a thread that reads it, which a close does not
        except OSError:
            pass
        each.close()
