"""Holds one conductor's jobs that wait for a denoiser. The job store decides whose turn it is: `jobs.allocation`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from deployments.background import until_set
from deployments.orchestration.replicas import Replicas

LOST_S = 60.0
"""How long a denoiser that a call found dead gets no job, if the controller still reports it as running."""

POLL_S = 0.5
"""How often the pool asks the job store for denoisers that the jobs of other conductors have freed."""


class DenoiserAllocation(Protocol):
    """Assigns denoisers to jobs, as `jobs.allocation.Allocation` does. Blocks."""

    def assign(self, model: str, denoisers: Sequence[str], tokens: Collection[str], /) -> Mapping[str, str]:
        """Returns the denoisers of those of the caller's jobs that have one now, by lease token."""


class DenoiserPool:
    """Makes each job wait here until it is assigned a denoiser.

    So no job queues at a busy denoiser while another one is free.
    """

    def __init__(
        self,
        allocation: DenoiserAllocation,
        deployments: Mapping[str, str],
        on_freed: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        paused: Callable[[], bool] = lambda: False,
    ) -> None:
        """
        Args:
            deployments: the name of the denoiser deployment of each model.
            on_freed: called when a job of this conductor has left its denoiser.
            clock: in seconds, from any start.
            paused: whether no job may have a denoiser for now.
        """
        self.replicas = Replicas({}, frozenset())
        self._allocation = allocation
        self._deployments = deployments
        self._on_freed = on_freed
        self._clock = clock
        self._paused = paused
        self._waiting: dict[str, dict[str, asyncio.Future[str]]] = {model: {} for model in deployments}
        self._all_busy: set[str] = set()  # the models that had no free denoiser at the last look
        self._news = asyncio.Event()
        self._lost: dict[str, float] = {}  # replica -> the clock's time until which it gets no job

    async def denoiser(self, model: str, token: str) -> str:
        """Wait for a denoiser; returns the replica, which belongs to this lease's job until the job's next stage."""
        mine: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._waiting[model][token] = mine
        if model not in self._all_busy:
            self._news.set()
        try:
            return await mine
        finally:
            del self._waiting[model][token]
            if not self._waiting[model]:  # nobody looks on behalf of the next one
                self._all_busy.discard(model)

    def freed(self) -> None:
        """Report that a job has left its denoiser."""
        self._all_busy.clear()
        self._news.set()
        self._on_freed()

    def denoisers(self, model: str) -> tuple[str, ...]:
        """The replicas that take calls, ordered by preference: those that a scale-in stops last come first."""
        now = self._clock()
        self._lost = {each: until for each, until in self._lost.items() if until > now}
        running = self.replicas.running.get(self._deployments[model], ())
        return tuple(each for each in running if each not in self._lost)

    def lost(self, replica: str | None) -> None:
        """Report that a call found this denoiser dead. The controller may notice much later."""
        if replica is not None:
            self._lost[replica] = self._clock() + LOST_S

    async def assign(self) -> None:
        """Wait for a change, then assign the free denoisers. To be called in a loop.

        The change may also be one that is not told here, such as a new denoiser, or one that another conductor's job
        has left; so it looks every `POLL_S` while jobs wait.
        """
        await until_set(self._news, POLL_S if any(self._waiting.values()) else None)
        self._news.clear()
        if self._paused():
            return
        for model, waiting in self._waiting.items():
            if waiting and (denoisers := self.denoisers(model)):
                self._all_busy.discard(model)
                given = await asyncio.to_thread(self._allocation.assign, model, denoisers, set(waiting))
                if not self._news.is_set() and waiting.keys() - given.keys():
                    self._all_busy.add(model)
                for token, replica in given.items():
                    # A job that was cancelled meanwhile gives its denoiser back when it releases its lease.
                    if token in waiting and not waiting[token].done():
                        waiting[token].set_result(replica)
