"""Renews the leases of one conductor, and fails the jobs whose conductor died in their last attempt."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Protocol

from deployments import metrics
from deployments.events import emit
from deployments.orchestration.takeover_guard import TakeoverGuard
from jobs.database import UNREACHABLE
from jobs.record import Job


class RenewsLeases(Protocol):
    """What a renewal needs of `jobs.leases.Leases`."""

    def renew(self, tokens: Collection[str], lease_s: float) -> set[str]: ...

    def held(self, tokens: Collection[str]) -> set[str]: ...

    def fail_spent(self, max_attempts: int, message: str) -> list[Job]: ...


class Renewal:
    """A conductor's heartbeat: it renews what the conductor holds, and lets go of what it holds no more."""

    def __init__(
        self,
        leases: RenewsLeases,
        guard: TakeoverGuard,
        *,
        lease_s: float,
        max_attempts: int,
        held: Callable[[], Collection[str]],
        on_lost: Callable[[str], None],
    ) -> None:
        """
        Args:
            guard: told of each renewal; it decides whether the expired leases of others count as abandoned.
            held: the tokens of the leases that the conductor holds.
            on_lost: told the token of a lease that is no longer valid.
        """
        self._leases = leases
        self._guard = guard
        self._lease_s = lease_s
        self._max_attempts = max_attempts
        self._held = held
        self._on_lost = on_lost
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="renew")  # its own: shared threads may all be busy

    async def renew(self) -> None:
        """Renew every lease once."""
        tokens = set(self._held())
        in_thread = partial(asyncio.get_running_loop().run_in_executor, self._thread)
        try:
            valid = await in_thread(self._leases.renew, tokens, self._lease_s)
        except UNREACHABLE:
            self._guard.not_renewed()
            raise
        for token in tokens - valid:
            self._on_lost(token)
        self._guard.renewed()
        if self._guard.trusted():
            await in_thread(self._fail_spent)

    async def check(self) -> None:
        """Ask whether every lease is still held, which renewals ask too seldom to tell a canceled job soon."""
        if not (tokens := set(self._held())):
            return
        try:
            valid = await asyncio.to_thread(self._leases.held, tokens)
        except UNREACHABLE:
            return  # the renewal reports it
        for token in tokens - valid:
            self._on_lost(token)

    def _fail_spent(self) -> None:
        attempts = self._max_attempts
        message = f"the video could not be rendered in {attempts} attempts; the last one took its conductor with it"
        for job in self._leases.fail_spent(attempts, message):
            metrics.jobs_total().inc(1, {"model": job.model, "outcome": "failed"})
            emit("job.failed", job_id=job.id, model=job.model, attempt=job.attempts)
