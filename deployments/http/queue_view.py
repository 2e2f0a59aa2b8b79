"""Computes a job's queue position and expected completion, from a view of the queue that is a second old or so."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from jobs.costs import Line, estimate
from jobs.lifecycle import Status
from jobs.record import Job
from jobs.store import JobStore
from pipelines.stages import Stage

FRESH_S = 1.0
SHARE = 0.05
"""The most of its time that a replica spends looking at a queue: the view of a very long one may be older."""


@dataclass(frozen=True, slots=True)
class Place:
    """A job's queue position and expected completion; each is None where it does not apply.

    The time is also None until a job of the model has been measured.
    """

    position: int | None = None  # 1 is claimed next
    eta_s: float | None = None  # seconds until the job is completed


@dataclass(frozen=True, slots=True)
class _View:
    """A snapshot of one model's queue."""

    fresh_until: float
    lines: dict[Stage, Line]
    denoisers: int  # at work
    begun_left_s: float
    waiting_s: float
    ahead: dict[str, tuple[int, float]]  # position, and seconds of work before it


class QueueView:
    """Caches the queues, one instance per API replica, so that a page of a long queue needs no count for each job."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._views: dict[str, _View] = {}
        self._looking = threading.Lock()

    def is_fresh(self, job: Job) -> bool:
        """Whether `place` needs no look at the job store."""
        view = self._views.get(job.model)
        return job.ended or (view is not None and time.monotonic() < view.fresh_until)

    def place(self, job: Job) -> Place:
        """A live job's place. Blocks for the database when the cached view is too old."""
        if job.ended:
            return Place()
        view = self._view(job.model)
        expected = estimate(view.lines, job.work)
        left = sum(expected.seconds.values()) * (100 - job.progress) / 100
        if job.status is not Status.QUEUED:
            return Place(None, round(left, 1) if expected.measured else None)
        # A job that arrived after the view was taken is behind all jobs in it.
        position, ahead_s = view.ahead.get(job.id, (len(view.ahead) + 1, view.waiting_s))
        wait = (view.begun_left_s + ahead_s) / max(view.denoisers, 1)
        return Place(position, round(wait + left, 1) if expected.measured else None)

    def _view(self, model: str) -> _View:
        view = self._views.get(model)
        if view is not None and time.monotonic() < view.fresh_until:
            return view
        # One caller looks; the others take the view that there is, or wait for the first one.
        if not self._looking.acquire(blocking=view is None):
            assert view is not None
            return view
        try:
            if self._views.get(model) is view:
                self._views[model] = self._look(model)
            return self._views[model]
        finally:
            self._looking.release()

    def _look(self, model: str) -> _View:
        began_at = time.monotonic()
        begun_left_s = sum(left_s for _, left_s in self._store.working(model).values())
        ahead, before_s = {}, 0.0
        for position, waiting in enumerate(self._store.queue(model), 1):
            ahead[waiting.id] = (position, before_s)
            before_s += waiting.cost_s
        denoisers, lines = self._store.denoising(model), self._store.lines(model)
        now = time.monotonic()
        fresh_until = now + max(FRESH_S, (now - began_at) / SHARE)
        return _View(fresh_until, lines, denoisers, begun_left_s, before_s, ahead)
