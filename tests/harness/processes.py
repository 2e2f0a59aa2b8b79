"""Ending processes without asking them. Only those that this process started, and what they started, are ever named."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil

DEADLINE_S = 30


def kill(pid: int) -> None:
    """`kill -9`."""
    os.kill(pid, signal.SIGKILL)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that does not go on while somebody looks at what it holds; killed meanwhile, it stays dead."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        try:
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            pass  # killed, which is what it was stopped for


def below(pid: int) -> list[psutil.Process]:
    """A process and everything below it; empty when it is gone."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def title(process: psutil.Process) -> str:
    """Its command line; empty when it has ended."""
    try:
        return "" if process.status() == psutil.STATUS_ZOMBIE else " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def kill_tree(*pids: int) -> int:
    """`kill -9` for processes and everything below them; returns how many there were.

    All are stopped first, until no new one appears: what is stopped starts no other that would get away.
    """
    seen: set[psutil.Process] = set()
    while new := {process for pid in pids for process in below(pid)} - seen:
        for process in new:
            _send(process, signal.SIGSTOP)
        seen |= new
    for process in seen:
        _send(process, signal.SIGKILL)
    _, left = psutil.wait_procs(seen, timeout=DEADLINE_S)
    if any(title(process) for process in left):
        raise RuntimeError(f"{len(left)} processes outlived SIGKILL")
    return len(seen)


def until(condition: Callable[[], bool], what: str, seconds: float = DEADLINE_S, every_s: float = 0.1) -> None:
    """Wait for a condition.

    Raises:
        TimeoutError: naming `what`.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:.0f} s: {what}")
        time.sleep(every_s)


def _send(process: psutil.Process, what: signal.Signals) -> None:
    try:
        process.send_signal(what)
    except psutil.NoSuchProcess:
        pass  # it ended by itself
