"""Reads the failed starts of stages for a probe, which has an answer in time whatever the job store does."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from jobs.database import UNREACHABLE
from jobs.stage_failures import StageFailure

DEADLINE_S = 1.0
"""How long a probe waits for the job store. A load balancer waits a few seconds for the whole answer."""

Failures = Mapping[str, StageFailure]


class Record(Protocol):
    """What this needs of `jobs.stage_failures.StageFailures`."""

    def all(self, *, deployed_at: float) -> Failures: ...


class FailedStarts:
    """The failures as the job store has them, or had them when it last answered in time.

    A store that vanished holds a read for as long as a connection takes to time out: one read, however many ask.
    """

    def __init__(self, record: Record, deadline_s: float = DEADLINE_S) -> None:
        self._record, self._deadline_s = record, deadline_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="failed-starts")
        self._lock = threading.Lock()
        self._reading: Future[None] | None = None
        self._last: tuple[float, Failures] = (0.0, {})
        self._last_at = time.monotonic()

    def all(self, *, deployed_at: float) -> Failures:
        """The failures since the application was deployed, by deployment. Blocks for a second at most."""
        with self._lock:
            if self._reading is None or self._reading.done():
                self._reading = self._thread.submit(self._read, deployed_at)
            reading = self._reading
        try:
            reading.result(self._deadline_s)
        except (TimeoutError, *UNREACHABLE):
            pass  # what is known from before is the best there is
        of, known = self._last
        return known if of == deployed_at else {}

    @property
    def age_s(self) -> float:
        """Seconds since the job store has answered, or since this was made."""
        return time.monotonic() - self._last_at

    def _read(self, deployed_at: float) -> None:
        failures = self._record.all(deployed_at=deployed_at)
        self._last, self._last_at = (deployed_at, failures), time.monotonic()  # also if nobody waits any more
