"""The common part of all computing stages: one worker thread, a stream of small events, cancellation and health.

A stage answers a call with a stream: `Started`, `Progress` while it works, perhaps `Ending`, then `Finished`, then its
value, if it has one. The events are packed. The caller awaits them and passes the reference of the value on, unread.
"""

from __future__ import annotations

import asyncio
import dataclasses
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from ray import serve

from deployments.background import ended
from deployments.replica_process import require_main_loop
from deployments.stages.event_queue import EventQueue
from deployments.stages.messages import Ending, Finished, Progress, Started, Stopped, packed
from jobs.stored import ResultMetadata

T = TypeVar("T")


class Control:
    """The worker thread's side of a call: report progress, and learn at each step whether to stop."""

    def __init__(self, report: Callable[[Started | Progress | Ending], None]) -> None:
        self._report = report
        self._stop = threading.Event()
        self.last_beat = time.monotonic()
        self.result_metadata = ResultMetadata()

    def start(self, replica: str) -> None:
        """Report that the call has left the queue. Raises Stopped when it was cancelled there."""
        self.begin()
        self._report(Started(replica))

    def begin(self) -> None:
        """Mark the start of a part that cannot be stopped. Raises Stopped when the call was cancelled."""
        self.last_beat = time.monotonic()
        if self._stop.is_set():
            raise Stopped

    def step(self, done: int, of: int) -> None:
        """Report progress between steps. Raises Stopped when the call was cancelled."""
        self.begin()
        self._report(Progress(done, of))

    def ending(self) -> None:
        """Report, once, that the rest of the call takes almost no time."""
        self._report(Ending())

    def stop(self) -> None:
        self._stop.set()


class Worker:
    """Runs a stage's calls one at a time in a thread, so that the replica's event loop stays free."""

    def __init__(self, step_timeout_s: float, new_queue: Callable[[], EventQueue] = EventQueue) -> None:
        require_main_loop()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="stage")
        self._step_timeout_s = step_timeout_s
        self._new_queue = new_queue
        self._current: Control | None = None

    async def stream(self, work: Callable[[Control], T]) -> AsyncGenerator[bytes | T, None]:
        """Run `work` and yield its events. When cancelled, this ends only after the thread has really stopped."""
        events = self._new_queue()
        control = Control(events.put)
        call = self._pool.submit(self._timed, control, work, this_replica())
        future = asyncio.wrap_future(call)
        future.add_done_callback(lambda _: events.close())
        try:
            async for event in events:
                yield packed(event)
            value, seconds = future.result()
            yield packed(Finished(seconds, payload_bytes(value), control.result_metadata))
            yield value
        finally:
            # The slot stays taken until the thread has left the GPU, however often the call is cancelled.
            control.stop()
            call.cancel()  # this only works while the call is still queued
            await ended(future)

    def run(self, work: Callable[..., T], *args: Any) -> T:
        """Run something in the worker's thread and block until it is done, as a constructor may.

        Weights must be loaded and warmed up in that thread too: OpenMP keeps a team of threads for each thread that
        uses it, and a second team would compete with the first for the same cores.
        """
        return self.submit(work, *args).result()

    def submit(self, work: Callable[..., T], *args: Any) -> Future[T]:
        """Have something run in the worker's thread, after the calls that wait there."""
        return self._pool.submit(work, *args)

    def check(self) -> None:
        """Raise when the current call has made no progress for too long, or the GPU's context is lost."""
        control = self._current
        if control is not None and time.monotonic() - control.last_beat > self._step_timeout_s:
            raise RuntimeError(f"no step finished in {self._step_timeout_s:.0f} s; the replica is wedged")
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            torch.cuda.mem_get_info()

    def _timed(self, control: Control, work: Callable[[Control], T], replica: str) -> tuple[T, float]:
        self._current = control
        started = time.perf_counter()
        try:
            control.start(replica)
            return work(control), time.perf_counter() - started
        finally:
            self._current = None


def this_replica() -> str:
    """The id of this process's Serve replica."""
    replica: str = serve.get_replica_context().replica_id.unique_id
    return replica


def payload_bytes(value: Any) -> int:
    """The size in bytes of a stage output: of its tensors or its blob."""
    if isinstance(value, bytes):
        return len(value)
    if not dataclasses.is_dataclass(value):
        return 0
    parts = (getattr(value, field.name) for field in dataclasses.fields(value))
    return sum(part.nbytes if hasattr(part, "nbytes") else payload_bytes(part) for part in parts)
