"""Everything that happens to every job, written down while it happens: the store forgets how an ended job got there."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from jobs.database import UNREACHABLE, Database
from jobs.schema import job_events
from pipelines.stages import Stage

LOOK_EVERY_S, OVERLAP_S = 0.1, 5.0


@dataclass(frozen=True, slots=True)
class Happened:
    """A change of a job, at a moment in seconds since the epoch."""

    at: float
    version: int
    kind: str
    stage: Stage | None
    step: int | None
    attempts: int


class Timeline:
    """Reads the new events of the store ten times a second, also over a restart of the store."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._seen: dict[str, dict[int, Happened]] = defaultdict(dict)
        self._since = time.time()
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="timeline")
        self._thread.start()

    def of(self, job_id: str) -> list[Happened]:
        """What was seen of a job, in order."""
        with self._lock:
            return sorted(self._seen[job_id].values(), key=lambda each: each.version)

    def steps_of(self, job_id: str) -> list[Happened]:
        """Where its denoisers were, as they reported it."""
        return [each for each in self.of(job_id) if each.stage is Stage.DENOISE and each.step is not None]

    def close(self) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(LOOK_EVERY_S):
            try:
                self._look()
            except UNREACHABLE:
                continue  # it is being killed; events are read later by their time

    def _look(self) -> None:
        began = time.time()
        # One is written a moment after the time that it carries.
        query = select(job_events).where(job_events.c.at > self._since - OVERLAP_S)
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        with self._lock:
            for row in rows:
                self._seen[row.job_id][row.version] = _happened(row)
        self._since = began


def _happened(row: Any) -> Happened:
    data: dict[str, Any] = row.data
    stage = Stage(data["stage"]) if data["stage"] else None
    return Happened(row.at, row.version, row.kind, stage, data["step"], data["attempts"])
