"""Accepts the jobs that arrive together in one transaction: a commit costs as much for many as for one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from sqlalchemy import Connection

from jobs import admission
from jobs.admission import Repeatable
from jobs.clock import read_now
from jobs.database import UNREACHABLE, Database
from jobs.intake import Limits, Refused, take_in
from jobs.record import Job

AT_ONCE = 64
"""The most jobs of one transaction: other writers have to come between."""


@dataclass(frozen=True, slots=True)
class _Arrival:
    job: Job
    limits: Limits
    clock: Callable[[Connection], float]
    begun: Callable[[], None]
    outcome: Future[Job] = field(default_factory=Future)


class Arrivals:
    """Stands for `admission.accept` in a process that accepts many jobs from many threads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._turn = threading.Lock()
        self._lock = threading.Lock()
        self._waiting: list[_Arrival] = []

    def accept(
        self,
        job: Job,
        limits: Limits,
        repeatable: Repeatable | None = None,
        *,
        clock: Callable[[Connection], float] = read_now,
        begun: Callable[[], None] = lambda: None,
    ) -> Job:
        """Store a job, together with those that arrived while the last transaction ran. Blocks; raises the same."""
        if repeatable is not None:  # its key has to be looked for, and is locked, before anything else
            with self._turn:
                return admission.accept(self._database, job, limits, repeatable, clock=clock, begun=begun)
        arrival = _Arrival(job, limits, clock, begun)
        with self._lock:
            self._waiting.append(arrival)
        with self._turn:  # the first that gets it writes for all; the others then find it done
            while not arrival.outcome.done():  # more may have come before it than one transaction takes
                with self._lock:
                    batch, self._waiting = self._waiting[:AT_ONCE], self._waiting[AT_ONCE:]
                self._write(batch)
        return arrival.outcome.result()

    def _write(self, batch: Sequence[_Arrival]) -> None:
        try:
            with self._database.write() as connection:
                for each in batch:
                    each.begun()
                now = batch[-1].clock(connection)
                outcomes = take_in(connection, [(each.job, each.limits) for each in batch], now)
        except UNREACHABLE as error:
            for each in batch:
                each.outcome.set_exception(error)
        except Exception:
            # One of them is at fault, such as by a character that the database cannot store. Nothing is written.
            for each in batch:
                self._write_alone(each)
        else:
            for each, outcome in zip(batch, outcomes, strict=True):
                if isinstance(outcome, Refused):
                    each.outcome.set_exception(outcome)
                else:
                    each.outcome.set_result(outcome)

    def _write_alone(self, arrival: _Arrival) -> None:
        try:
            accepted = admission.accept(
                self._database, arrival.job, arrival.limits, clock=arrival.clock, begun=arrival.begun
            )
        except Exception as error:
            arrival.outcome.set_exception(error)
        else:
            arrival.outcome.set_result(accepted)
