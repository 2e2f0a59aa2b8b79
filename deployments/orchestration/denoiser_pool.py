"""The jobs of one conductor that wait for a denoiser. Whose turn it is, the job store says: `jobs.allocation`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from deployments.background import until_set
from deployments.orchestration.replicas import Replicas
from jobs.allocation import Allocation

LOST_S = 60.0
"""How long a denoiser that was seen dead gets no job, if the controller still takes it for alive."""

POLL_S = 0.5
"""How soon a job learns of a denoiser that another conductor's job has left."""


class DenoiserPool:
    """A job waits here until a denoiser is its own, so that none waits at one that is busy while another is free."""

    def __init__(self, turns: Allocation, deployments: Mapping[str, str], on_freed: Callable[[], None]) -> None:
        self.replicas = Replicas({}, frozenset())
        self._turns = turns
        self._deployments = deployments
        self._on_freed = on_freed
        self._waiting: dict[str, dict[str, asyncio.Future[str]]] = {model: {} for model in deployments}
        self._news = asyncio.Event()
        self._lost: dict[str, float] = {}  # until when

    async def denoiser(self, model: str, token: str) -> str:
        """The replica that runs the job under this lease from now on, until it is in another stage."""
        mine: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._waiting[model][token] = mine
        self._news.set()
        try:
            return await mine
        finally:
            del self._waiting[model][token]

    def freed(self) -> None:
        """A job has left its denoiser."""
        self._news.set()
        self._on_freed()

    def denoisers(self, model: str) -> tuple[str, ...]:
        """Those that take calls, first those that should have work: a scale-in takes them last."""
        now = time.monotonic()
        self._lost = {each: until for each, until in self._lost.items() if until > now}
        running = self.replicas.running.get(self._deployments[model], ())
        return tuple(each for each in running if each not in self._lost)

    def lost(self, replica: str | None) -> None:
        """A call found this denoiser dead, which the controller may learn much later."""
        if replica is not None:
            self._lost[replica] = time.monotonic() + LOST_S

    async def assign(self) -> None:
        """Wait for news, then give out what is free; for a loop."""
        await until_set(self._news, POLL_S if any(self._waiting.values()) else None)
        self._news.clear()
        for model, waiting in self._waiting.items():
            if waiting and (denoisers := self.denoisers(model)):
                given = await asyncio.to_thread(self._turns.assign, model, denoisers, set(waiting))
                for token, replica in given.items():
                    # One that was cancelled meanwhile gives the denoiser back with its lease.
                    if token in waiting and not waiting[token].done():
                        waiting[token].set_result(replica)
